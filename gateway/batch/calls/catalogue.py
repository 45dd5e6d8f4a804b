"""The actions that tell what is on offer. No account owns any of it, so nothing is stored."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from gateway.batch import datatypes as wire
from gateway.batch.catalogue import Catalogue
from gateway.batch.env_data import check_zone_exists
from gateway.batch.instance_types import CHARGE_TYPES, InstanceType
from gateway.batch.lists import check_filters
from gateway.batch.rules import Rules
from gateway.call import Call, Grant
from gateway.errors import InvalidParameterValue
from gateway.service import Operation

_TYPE_FILTERS = ("zone", "instance-family")
_CONFIG_FILTERS = (*_TYPE_FILTERS, "instance-type", "instance-charge-type")
Filters = Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class CatalogueCalls:
    """The handlers of the three actions on instance types."""

    rules: Rules

    @property
    def operations(self) -> Mapping[str, Operation]:
        """Every action on the catalogue."""
        return {
            "DescribeAvailableCvmInstanceTypes": Operation(
                wire.DescribeAvailableCvmInstanceTypesRequest,
                self.describe_types,
                wire.prepare_filters,
            ),
            "DescribeCvmZoneInstanceConfigInfos": Operation(
                wire.DescribeCvmZoneInstanceConfigInfosRequest,
                self.describe_configs,
                wire.prepare_filters,
            ),
            "DescribeInstanceCategories": Operation(
                wire.DescribeInstanceCategoriesRequest, self.describe_categories
            ),
        }

    async def describe_types(
        self, call: Call, grant: Grant, request: wire.DescribeAvailableCvmInstanceTypesRequest
    ) -> wire.DescribeAvailableCvmInstanceTypesResponse:
        """The instance types of every open zone of the region."""
        filters = self._read_filters(request.filters, _TYPE_FILTERS, region=call.region)
        configs = [
            wire.InstanceTypeConfig(
                mem=each.size.mem_gib,
                cpu=each.size.cpu,
                instance_type=each.name,
                zone=zone,
                instance_family=each.family,
            )
            for zone, each in _offers(self.rules.catalogue, filters, region=call.region)
        ]
        return wire.DescribeAvailableCvmInstanceTypesResponse(instance_type_config_set=configs)

    async def describe_configs(
        self, call: Call, grant: Grant, request: wire.DescribeCvmZoneInstanceConfigInfosRequest
    ) -> wire.DescribeCvmZoneInstanceConfigInfosResponse:
        """The same, by the way of paying, with all that a cloud says of its hardware."""
        filters = self._read_filters(request.filters, _CONFIG_FILTERS, region=call.region)
        asked = filters.get("instance-charge-type", CHARGE_TYPES)
        items = [
            _quota_item(each, zone=zone, charge_type=charge_type)
            for zone, each in _offers(self.rules.catalogue, filters, region=call.region)
            for charge_type in each.charge_types
            if charge_type in asked
        ]
        return wire.DescribeCvmZoneInstanceConfigInfosResponse(instance_type_quota_set=items)

    async def describe_categories(
        self, call: Call, grant: Grant, request: wire.DescribeInstanceCategoriesRequest
    ) -> wire.DescribeInstanceCategoriesResponse:
        """The categories that InstanceTypeOptions may name, with their families."""
        items = [
            wire.InstanceCategoryItem(instance_category=name, instance_family_set=list(families))
            for name, families in self.rules.catalogue.categories.items()
        ]
        return wire.DescribeInstanceCategoriesResponse(instance_category_set=items)

    def _read_filters(
        self, filters: Sequence[wire.Filter], known: Sequence[str], *, region: str
    ) -> Filters:
        """The filters by name. One that is there twice must hold twice, as every filter must.

        Raises InvalidFilter for a name that is not known, InvalidParameterValue.InvalidFilter for
        one without values, the codes of `check_zone_exists`, and
        InvalidParameterValue.UnsupportedBatchInstanceChargeType.
        """
        check_filters(filters, known)
        found: dict[str, Sequence[str]] = {}
        for each in filters:
            if not each.values:
                raise InvalidParameterValue(
                    f"The filter `{each.name}` has no values.", detail="InvalidFilter"
                )
            before = found.get(each.name, each.values)
            found[each.name] = [value for value in each.values if value in before]
        for each in filters:
            for value in each.values:
                self._check_value(each.name, value, region=region)
        return found

    def _check_value(self, name: str, value: str, *, region: str) -> None:
        """Check one value of a filter. A closed zone is a zone, in which nothing is offered."""
        if name == "zone":
            check_zone_exists(value, region=region, catalogue=self.rules.catalogue)
        if name == "instance-charge-type" and value not in CHARGE_TYPES:
            raise InvalidParameterValue(
                f"Batch has no instances that are paid for as `{value}`.",
                detail="UnsupportedBatchInstanceChargeType",
            )


def _offers(
    catalogue: Catalogue, filters: Filters, *, region: str
) -> Iterator[tuple[str, InstanceType]]:
    """Zones and the types offered there, both in the catalogue's order."""
    for zone in catalogue.zones_of(region):
        if zone not in filters.get("zone", (zone,)):
            continue
        for each in catalogue.instance_types.values():
            is_here = not each.zones or zone in each.zones
            of_family = each.family in filters.get("instance-family", (each.family,))
            if is_here and of_family and each.name in filters.get("instance-type", (each.name,)):
                yield zone, each


def _quota_item(each: InstanceType, *, zone: str, charge_type: str) -> wire.InstanceTypeQuotaItem:
    return wire.InstanceTypeQuotaItem(
        zone=zone,
        instance_type=each.name,
        instance_charge_type=charge_type,
        network_card=0,
        externals=wire.Externals(),
        cpu=each.size.cpu,
        memory=each.size.mem_gib,
        instance_family=each.family,
        type_name=each.kind,
        local_disk_type_list=[],
        status="SELL",
        price=wire.ItemPrice(),
        sold_out_reason="",
        instance_bandwidth=0.0,
        instance_pps=0,
        storage_block_amount=0,
        cpu_type="",
        gpu=0,
        fpga=0,
        remark="",
        gpu_count=0.0,
        frequency="",
        status_category="EnoughStock",
    )
