"""A page for each error code (docs/errors/): what it means, what the program does by itself, what to look at, what to do."""

from __future__ import annotations

from qkdd.core.errors import Kind, QkddError

# what the program does, by kind of error
_BY_ITSELF: dict[Kind, str] = {
    Kind.TRANSIENT: "It tries again by itself, with pauses that double up to half a minute, and says so once when it "
    "goes and once when it is back.",
    Kind.PERMANENT: "It changes nothing by itself; something has to be changed by a person. A part that failed with it is "
    "tried now and then, so a correction is noticed.",
    Kind.INTERLOCK: "It stopped the link and brought every device into its safe state. Nothing goes on before `qkdctl resume`.",
    Kind.KEY_MATERIAL: "It discarded the block on both nodes; no bit of it became key. The next block goes on.",
}

# where to look, by room: command and what it shows
_LOOK: dict[str, tuple[tuple[str, str], ...]] = {
    "BLK": (
        ("qkdctl blocks", "which blocks were refused, with error rate, leak and reason"),
        ("qkdctl link", "error rate, visibilities, count rates, clock"),
        ("qkdctl link security", "the proof in use and what it needs"),
    ),
    "LNK": (
        ("qkdctl link", "state, clock offset and drift, count rates"),
        ("qkdctl devices", "whether tagger and detectors are up"),
        ("qkdctl watch", "what the link does, as it happens"),
    ),
    "DEV": (
        ("qkdctl devices", "state and last error of each instrument"),
        ("qkdd drivers probe", "which instruments this machine sees"),
        ("journalctl -u qkdd -g DEVICE", "the exchanges around the failure (put the device's name for DEVICE)"),
    ),
    "PEER": (
        ("qkdctl status", "the part `peer`, its last error and next attempt"),
        ("qkdd pki check CONFIG", "whether this node's certificates, trust and revocation list are good"),
        ("qkdctl errors", "how often it came, on this node and (run there) on the other"),
    ),
    "KEYS": (
        ("qkdctl keys", "what waits in the spool, masks, budgets"),
        ("qkdctl blocks", "which blocks were committed"),
        ("systemctl status qkdd-kms", "whether the KMS runs"),
    ),
    "KMS": (
        ("qkdd-kms status CONFIG", "chunks and pools of the store"),
        ("qkdd-kms check-config CONFIG", "whether configuration and certificates are good"),
        ("journalctl -u qkdd-kms", "the log, with the cause"),
    ),
    "PSK": (
        ("qkd-psk status CONFIG", "key in use and its age, whether both ends agree, the last failure"),
        ("qkd-psk check-config CONFIG", "whether configuration, certificates and state are good"),
        ("journalctl -u qkd-psk@NAME", "the log, with the cause (put the configuration's name for NAME)"),
    ),
    "NODE": (
        ("qkdctl status", "every part, with its last error"),
        ("qkdctl errors", "all codes since the start, with counts"),
        ("journalctl -u qkdd", "the log"),
    ),
    "CTL": (
        ("qkdctl status", "whether the daemon answers"),
        ("id", "the groups of the user that asked"),
        ("systemctl status qkdd", "whether the daemon runs"),
    ),
    "SEC": (
        ("qkdctl link security", "proof, assumptions, and every term of the security budget"),
        ("qkdctl keys", "what of the epoch's budget is spent"),
        ("qkdctl blocks", "the blocks that it concerns"),
    ),
    "TEL": (
        ("qkdctl status", "the parts `mqtt` and `telemetry`"),
        ("curl -s http://127.0.0.1:9101/metrics", "whether metrics are served (put the address of [telemetry] listen)"),
        ("journalctl -u qkdd", "the log"),
    ),
    "CFG": (
        ("qkdd check-config CONFIG", "every finding at once, with file, line, key and remedy"),
        ("ls -l FOLDER", "owner and mode of the named files"),
    ),
    "CORE": (
        ("df -h", "free space on the state directory's file system"),
        ("journalctl -u qkdd", "the log lines around it"),
        ("qkdctl status", "which part it came from"),
    ),
    "KRN": (
        ("qkdctl errors", "which part it came from"),
        ("qkdctl devices", "whether a tagger's stream is damaged"),
        ("journalctl -u qkdd", "the log lines around it"),
    ),
    "FWB": (
        ("qkdctl firmware list", "versions and slots of the boards"),
        ("qkdctl devices", "state of the boards"),
        ("journalctl -u qkdd", "the log lines around it"),
    ),
}
# the alert that a code leads to
_ALERTS = {
    "QKD-BLK-QBER": "QkddQberCritical",
    "QKD-BLK-NO-LENGTH": "QkddQberCritical",
    "QKD-BLK-AUTH": "QkddAuthenticationFailures",
    "QKD-NODE-BRIGHT": "QkddDetectorBlindingSuspected",
    "QKD-KEYS-HANDOVER": "QkddKmsDown",
    "QKD-KEYS-HANDOVER-REFUSED": "QkddKmsDown",
    "QKD-KMS-NO-KEY": "QkddKeyStoreNearlyEmpty",
    "QKD-SEC-EPSILON-SPENT": "QkddEpsilonNearlySpent",
    "QKD-LNK-LOCK-LOST": "QkddLinkDown",
    "QKD-LNK-ALIGN-FAILED": "QkddLinkDown",
    "QKD-PEER-UNREACHABLE": "QkddLinkDown",
    "QKD-PEER-CERT-EXPIRED": "QkddCertificateExpires",
    "QKD-PEER-MASKS-EMPTY": "QkddMasksRunOut",
    "QKD-CORE-DISK-FULL": "QkddDiskNearlyFull",
    "QKD-TEL-MQTT-DOWN": "QkddMqttCannotBeReached",
    "QKD-TEL-MQTT-DENIED": "QkddMqttCannotBeReached",
}


def page(code: str, kind: type[QkddError]) -> str:
    """docs/errors/CODE.md."""
    room = code.split("-")[1]
    lines = [
        f"# {code}",
        "",
        kind.meaning,
        "",
        "## What the program does",
        "",
        _BY_ITSELF[kind.kind],
        "",
        "## What to look at",
        "",
        "The message names device, block, file or peer. Then:",
        "",
        *(f"- `{command}` – {shows}" for command, shows in _LOOK[room]),
        "",
        "## What to do",
        "",
        kind.default_remedy,
        "",
        "## Where it shows",
        "",
        f'`qkdd_errors_total{{code="{code}"}}` on `/metrics`, `qkdctl errors`, the log field `code`.'
        if room not in ("KMS", "CTL", "CFG", "PSK")
        else "In the answer to the caller, and in the log field `code`.",
    ]
    if code in _ALERTS:
        lines.append(f"Alert: {_ALERTS[code]}.")
    return "\n".join(lines) + "\n"


def index(known: dict[str, type[QkddError]]) -> str:
    """docs/errors/README.md."""
    lines = [
        "# Error codes, a page each",
        "",
        "Generated by `python -m qkdd.node.docs`. `qkdd errors CODE` prints the same in a terminal;",
        "[errors.md](../errors.md) has all on one page.",
        "",
        "| code | kind | meaning |",
        "|---|---|---|",
        *(f"| [{code}]({code}.md) | {kind.kind} | {kind.meaning} |" for code, kind in known.items()),
    ]
    return "\n".join(lines) + "\n"
