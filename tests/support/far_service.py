"""A service in a process of its own: `python -m tests.support.far_service PORT`.

It tells what it was sent; what it is asked to do is in the call's parameters.
"""

import sys

import msgspec
from aiohttp import web

from gateway import proxy
from gateway.call import Call, Grant, Reply
from gateway.errors import ClassicError, ResourceNotFound
from tests.support.services import LOOPBACK


async def tell(call: Call, grant: Grant) -> Reply:
    """An upstream: answers with the call and the grant as they arrived, or as it is told."""
    if call.params.get("JobId") == "job-notfound":
        raise ResourceNotFound("Job `job-notfound` does not exist.", detail="Job")
    if call.params.get("JobId") == "job-numbered":
        raise ClassicError("queue is not existed", number=4440, module=10100)
    if call.params.get("JobId") == "job-mistaken":
        raise ValueError("a secret of the inside")
    return Reply(msgspec.json.encode({"Call": call, "Grant": grant}))


async def answer(request: web.Request) -> web.Response:
    if request.path == "/elsewhere":
        raise web.HTTPFound("/")
    return web.Response(body=await proxy.serve(await request.read(), tell))


def main() -> None:
    application = web.Application(client_max_size=64 * 1024 * 1024)
    application.router.add_post("/{path:.*}", answer)
    web.run_app(application, host=LOOPBACK, port=int(sys.argv[1]), print=None)


if __name__ == "__main__":
    main()
