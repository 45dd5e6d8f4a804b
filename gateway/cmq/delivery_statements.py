"""The statements on deliveries, and on dead letters."""

from sqlalchemy import insert

from gateway.cmq.tables import delivery

ADD_DELIVERIES = insert(delivery)
