"""What requests about topics and requests about queues have in common: tags, and lists. Pure."""

from collections.abc import Sequence

from gateway.call import Scope
from gateway.cmq.lists import Wanted, check_names, check_search, read_page
from gateway.cmq.tags import Tag, TagFilter
from gateway.cmq.tdmq import datatypes as wire
from gateway.errors import InvalidFilter

_FILTER_PREFIX = "tag:"


def read_tags(given: Sequence[wire.Tag] | None) -> list[Tag]:
    """The tags that something is made with."""
    return [Tag(each.tag_key, each.tag_value) for each in given or ()]


def read_topic_list(request: wire.DescribeCmqTopicsRequest, *, scope: Scope | None) -> Wanted:
    """Which topics are asked for. Raises InvalidFilter, InvalidParameterValue."""
    offset, limit = read_page(request.offset, request.limit)
    return Wanted(
        search=check_search(request.topic_name or "", parameter="TopicName"),
        names=check_names(request.topic_name_list or (), parameter="TopicNameList"),
        filters=read_filters(request.filters),
        scope=scope,
        offset=offset,
        limit=limit,
    )


def read_queue_list(request: wire.DescribeCmqQueuesRequest, *, scope: Scope | None) -> Wanted:
    """Which queues are asked for. Raises InvalidFilter, InvalidParameterValue."""
    offset, limit = read_page(request.offset, request.limit)
    return Wanted(
        search=check_search(request.queue_name or "", parameter="QueueName"),
        names=check_names(request.queue_name_list or (), parameter="QueueNameList"),
        filters=read_filters(request.filters),
        scope=scope,
        offset=offset,
        limit=limit,
    )


def read_filters(given: Sequence[wire.Filter] | None) -> list[TagFilter]:
    """What a list is narrowed to: filters `tag:<key>`. Raises InvalidFilter for any other.

    Why `IsTagFilter` is not looked at: it says that the filters are on tags, and they can be on
    nothing else. A filter that quietly does nothing shows what nobody asked for.
    """
    for each in given or ():
        if not each.name.startswith(_FILTER_PREFIX):
            raise InvalidFilter(f"The filter `{each.name}` is not of the form `tag:<key>`.")
    return [
        TagFilter(each.name.removeprefix(_FILTER_PREFIX), tuple(each.values))
        for each in given or ()
    ]
