"""How events, and what became of them, are printed for people."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from gateway.commands.answers import printable

TOLD_IN_A_LINE = ("TaskName", "TaskInstanceIndex", "ComputeNodeId", "SubscriptionName", "ExitCode")
"""Members of `Batch` that say which part of the subject it was, or how it ended."""


def counted(number: int, one: str, many: str = "") -> str:
    """So many of a thing, `1 message` or `3 messages`. many: if an s does not make the plural."""
    return f"{number} {one if number == 1 else many or f'{one}s'}"


def event_line(found: Mapping[str, Any]) -> str:
    """One event in one line."""
    batch = found["Batch"]
    details = [f"{name}={batch[name]}" for name in TOLD_IN_A_LINE if batch.get(name) is not None]
    return printable(
        f"{found['EventTime']}  {found['EventName']:32}  {found['EventId']:16}"
        f"  {found['Subject']:14}  {' '.join(details)}".rstrip()
    )


def event_text(found: Mapping[str, Any]) -> str:
    """All of one event, with its messages, their deliveries and dead letters.

    found: has no members of an event if only messages are known.
    """
    return "\n".join(printable(line) for line in _event_lines(found))


def _event_lines(found: Mapping[str, Any]) -> Iterator[str]:
    if "EventId" in found:
        yield f"{found['EventName']}  {found['EventId']}  at {found['EventTime']}"
        yield f"  of        {found['Subject']} in {found['Region']}, account {found['Owner']}"
        yield f"  says      {json.dumps(found['Batch'], ensure_ascii=False)}"
    else:
        yield "published by a user, or of an event that is no longer kept"
    if not found["Messages"]:
        yield "  message   none: nobody asked for it, or they are no longer kept"
    for message in found["Messages"]:
        yield f"  message   {_message_text(message)}"
        yield from (f"            {_delivery_text(one)}" for one in message["Deliveries"])
    for letter in found["DeadLetters"]:
        yield f"  dead      {_death_text(letter)}"


def _message_text(message: Mapping[str, Any]) -> str:
    words = [message["MessageId"], f"to topic {message['TopicName']}"]
    if message["Replay"]:
        whom = message["OnlySubscriptionId"]
        words.append(f"replay {message['Replay']}" + (f" for {whom} alone" if whom else ""))
    if message["SendTime"]:
        words.append(f"sent at {message['SendTime']}")
    else:
        words.append("waits for the broker" if message["ExpandTime"] else "waits")
    return ", ".join(words)


def _delivery_text(delivery: Mapping[str, Any]) -> str:
    words = [
        f"{delivery['SubscriptionName']} ({delivery['Protocol']}): {delivery['State']}"
        f" {'at' if delivery['State'] == 'delivered' else 'as of'} {delivery['ChangeTime']}"
    ]
    if delivery["Attempts"]:
        words.append(f"{counted(delivery['Attempts'], 'attempt')} failed")
    if delivery["NextTime"]:
        words.append(f"next try at {delivery['NextTime']}")
    if delivery["Why"]:
        words.append(delivery["Why"])
    return ", ".join(words)


def _death_text(letter: Mapping[str, Any]) -> str:
    replayed = f", replayed at {letter['ReplayTime']}" if letter["ReplayTime"] else ""
    return (
        f"{letter['Id']}: {letter['MessageId']} for {letter['SubscriptionName']}"
        f" at {letter['DeathTime']} after {counted(letter['Attempts'], 'attempt')}:"
        f" {letter['Why']}{replayed}"
    )


def dead_letter_line(letter: Mapping[str, Any]) -> str:
    """One dead letter in one line."""
    replayed = f"  replayed {letter['ReplayTime']}" if letter["ReplayTime"] else ""
    return printable(
        f"{letter['Id']}  {letter['DeathTime']}  {letter['MessageId']}"
        f"  {letter['TopicName']}/{letter['SubscriptionName']}  {letter['Why']}{replayed}"
    )


def dead_letter_text(letter: Mapping[str, Any]) -> str:
    """All of one dead letter, with the body of its message."""
    lines = [
        f"{letter['MessageId']}  {letter['EventName'] or 'published by a user'}",
        f"  for       {letter['SubscriptionName']} ({letter['SubscriptionId']}) of topic"
        f" {letter['TopicName']} in {letter['Region']}, account {letter['Owner']}",
        f"  at        {letter['Endpoint']}",
        f"  made      {letter['CreateTime']}",
        f"  died      {letter['DeathTime']} after {counted(letter['Attempts'], 'attempt')}",
        f"  why       {letter['Why']}",
        f"  replayed  {letter['ReplayTime'] or 'never'}",
        f"  body      {letter['Body']}",
    ]
    return "\n".join(printable(line) for line in lines)
