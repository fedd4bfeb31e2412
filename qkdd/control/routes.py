"""The table of routes: the one place that says which request exists, who may send it and what it answers.

The server is made from it, and so is the OpenAPI document.
"""

from __future__ import annotations

from typing import Any

from qkdd.control import views
from qkdd.control.diagnostics_view import DiagnosticsView
from qkdd.control.events import Event
from qkdd.control.firmware_views import FirmwareOrder, FirmwareView, ImageView
from qkdd.control.overview import AlignView, OverviewView
from qkdd.control.security_views import AdviceView, SecurityView
from qkdd.core.local_access import Role
from qkdd.core.local_api import Call, Handler, Query, Route
from qkdd.core.zeroise import ZeroiseOrder, ZeroiseView

MAX_BLOCKS = 1000


async def _status(node: views.NodeControl, _call: Call) -> Any:
    return node.status()


async def _devices(node: views.NodeControl, _call: Call) -> Any:
    return node.devices()


async def _fields(node: views.NodeControl, call: Call) -> Any:
    return await node.fields(call.path["name"])


async def _link(node: views.NodeControl, _call: Call) -> Any:
    return node.link()


async def _security(node: views.NodeControl, _call: Call) -> Any:
    return node.link_security()


async def _advise(node: views.NodeControl, call: Call) -> Any:
    return await node.link_advise(call.query["longest_block_s"])


async def _blocks(node: views.NodeControl, call: Call) -> Any:
    return node.blocks(call.query["limit"] or 0)


async def _keys(node: views.NodeControl, _call: Call) -> Any:
    return node.keys()


async def _errors(node: views.NodeControl, _call: Call) -> Any:
    return node.errors()


async def _diagnostics(node: views.NodeControl, _call: Call) -> Any:
    return await node.diagnostics()


async def _overview(node: views.NodeControl, _call: Call) -> Any:
    return node.overview()


async def _align_view(node: views.NodeControl, _call: Call) -> Any:
    return node.align_view()


async def _align(node: views.NodeControl, call: Call) -> Any:
    return await node.align(call.body.seconds)


async def _calibrate(node: views.NodeControl, _call: Call) -> Any:
    return await node.calibrate_polarization()


async def _drain(node: views.NodeControl, _call: Call) -> Any:
    return await node.drain()


async def _resume(node: views.NodeControl, _call: Call) -> Any:
    return await node.resume()


async def _reload(node: views.NodeControl, _call: Call) -> Any:
    return await node.reload()


async def _zeroise(node: views.NodeControl, call: Call) -> Any:
    return await node.zeroise(call.body.confirm)


async def _log_level(node: views.NodeControl, call: Call) -> Any:
    return node.set_log_level(call.body.level)


async def _firmware(node: views.NodeControl, _call: Call) -> Any:
    return await node.firmware.list_boards()


async def _firmware_verify(node: views.NodeControl, call: Call) -> Any:
    return node.firmware.verify(call.body.image, call.body.devices)


async def _firmware_stage(node: views.NodeControl, call: Call) -> Any:
    return await node.firmware.stage(call.body.image, call.body.devices)


async def _firmware_update(node: views.NodeControl, call: Call) -> Any:
    return await node.firmware.update(call.body.image, call.body.devices)


async def _firmware_rollback(node: views.NodeControl, call: Call) -> Any:
    return await node.firmware.rollback(call.body.devices)


def _firmware_post(verb: str, summary: str, answer: Any, handler: Handler) -> Route:
    return Route("POST", f"/v1/firmware/{verb}", Role.ADMIN, summary, answer, handler, body=FirmwareOrder)


V, A = Role.VIEW, Role.ADMIN
_LIMIT = Query("limit", 1, MAX_BLOCKS, 20, "How many, newest first.")
_LONGEST = Query("longest_block_s", 1, 86_400, None, "Seconds that a block may take at the most.")
_SINCE = Query(
    "since", 0, 2**53, None, "Replay kept events with a higher sequence number first; 0 for all that are kept."
)

ROUTES: tuple[Route, ...] = (
    Route("GET", "/v1/status", V, "State of the node, its parts, the link and the stock.", views.StatusView, _status),
    Route("GET", "/v1/devices", V, "The configured devices.", list[views.DeviceView], _devices),
    Route("GET", "/v1/devices/{name}/fields", V, "Read all fields of a device.", list[views.FieldView], _fields),
    Route("GET", "/v1/link", V, "The quantum link.", views.LinkView, _link),
    Route(
        "GET",
        "/v1/link/security",
        V,
        "The proof in use, its assumptions and the security budget term by term.",
        SecurityView,
        _security,
    ),
    Route(
        "GET",
        "/v1/link/advise",
        V,
        "Settings with the highest secret rate on the channel as it is; may take some seconds.",
        AdviceView,
        _advise,
        query=(_LONGEST,),
    ),
    Route("GET", "/v1/blocks", V, "The last blocks.", list[views.BlockView], _blocks, query=(_LIMIT,)),
    Route("GET", "/v1/keys", V, "Stock of key and budgets; never key bytes.", views.KeysView, _keys),
    Route("GET", "/v1/errors", V, "Error codes that came up since the start.", list[views.ErrorCount], _errors),
    Route("GET", "/v1/overview", V, "Everything that a live view shows.", OverviewView, _overview),
    Route(
        "GET",
        "/v1/diagnostics",
        A,
        "For support: configuration without secrets, log, metrics, self-test.",
        DiagnosticsView,
        _diagnostics,
    ),
    Route("GET", "/v1/align", V, "The last opened stretch, null before it.", AlignView | None, _align_view),
    Route(
        "POST",
        "/v1/align",
        A,
        "Hold the link open for alignment: both nodes show their clicks, no key is made.",
        views.Done,
        _align,
        body=views.AlignOrder,
    ),
    Route("GET", "/", V, "The status page.", str, None, stream=True),
    Route(
        "GET",
        "/events",
        V,
        "The status page's server-sent events: `state` each second.",
        OverviewView,
        None,
        stream=True,
    ),
    Route("GET", "/v1/events", V, "Events as they happen.", Event, None, query=(_SINCE,), stream=True),
    Route(
        "POST",
        "/v1/calibrate/polarization",
        A,
        "Search the paddles for the lowest error; answers when done.",
        views.CalibrationView,
        _calibrate,
    ),
    Route("POST", "/v1/drain", A, "Finish the block in hand and make no new ones.", views.Done, _drain),
    Route("POST", "/v1/resume", A, "Make blocks again after drain or a tripped interlock.", views.Done, _resume),
    Route("POST", "/v1/reload", A, "Read the configuration again; take over what may change.", views.Done, _reload),
    Route(
        "POST",
        "/v1/log-level",
        A,
        "Set the log level until the next start.",
        views.Done,
        _log_level,
        body=views.LogLevel,
    ),
    Route("POST", "/v1/zeroise", A, "Erase all key for good.", ZeroiseView, _zeroise, body=ZeroiseOrder),
    Route("GET", "/v1/firmware", V, "Firmware of the node's own boards.", list[FirmwareView], _firmware),
    _firmware_post("verify", "Check an image's signature and which boards it fits.", list[ImageView], _firmware_verify),
    _firmware_post("stage", "Bring an image into the boards' free slots.", views.Done, _firmware_stage),
    _firmware_post(
        "update",
        "Update boards, canary group first; rolls back by itself on degradation.",
        views.Done,
        _firmware_update,
    ),
    _firmware_post("rollback", "Go back to the firmware in the other slot.", views.Done, _firmware_rollback),
)
