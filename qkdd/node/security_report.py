"""The proof of the link in plain words, with the configured numbers, and the composition of its security budget (S7.5)."""

from __future__ import annotations

from qkdd.control.security_views import AssumptionView, EpsilonTermView, SecurityView
from qkdd.core.errors import QkddError
from qkdd.distill.decoy_config import FIXED_LENGTH
from qkdd.distill.decoy_plan import plan_fixed
from qkdd.link.config import LinkConfig, LinkShared
from qkdd.security import modes
from qkdd.security.accounting import TAG_BITS, authentication_epsilon
from qkdd.security.ledger import LedgerView
from qkdd.security.one_decoy import TERMS as ONE_DECOY_TERMS
from qkdd.security.proofs import split_vl
from qkdd.security.two_decoy import DECOY_BOUNDS
from qkdd.security.two_decoy import TERMS as LIM_TERMS

_LARGEST_PHASE_BITS = 1 << 40  # of messages that one tag covers, as an upper bound for what is shown


def mode_of(shared: LinkShared) -> modes.Mode:
    """The proof that this link's lengths come from."""
    return modes.mode(shared.decoy.proof if shared.decoy is not None else shared.proof)


def _numbers(shared: LinkShared) -> dict[str, str]:
    found = {
        "dead_time": str(shared.dead_time),
        "basis_imbalance_max": f"{float(shared.basis_imbalance_max):g}",
    }
    decoy = shared.decoy
    if decoy is None:
        return found
    found |= {
        "mu": ", ".join(f"{value:g}" for value in decoy.mu),
        "intensity_intervals": ", ".join(f"{low:g} to {high:g}" for low, high in decoy.mu_intervals),
        "p": ", ".join(f"{value:.6g}" for value in decoy.probabilities),
        "block_pulses": str(decoy.block_pulses),
        "efficiency_mismatch": f"{float(decoy.efficiency_mismatch):g}",
        "dark_count_mismatch": f"{float(decoy.dark_count_mismatch):g}",
        "dark_count_probability": f"{decoy.dark_count_probability:g}",
        "random_swap": "yes" if decoy.random_swap else "no",
    }
    if decoy.proof == FIXED_LENGTH:
        try:
            plan = plan_fixed(shared).acceptance
        except QkddError as error:
            found["thresholds"] = error.message
        else:
            found |= {
                "n_key": str(plan.n_key),
                "s_key_1_min": f"{plan.s_key_1_min:.0f}",
                "phi_max": f"{plan.phi_max:.4f}",
                "leak_max": f"{plan.leak_max:.0f} bits",
                "length": f"{plan.l_bits} bits",
            }
    return found


def _assumptions(mode: modes.Mode, shared: LinkShared) -> list[AssumptionView]:
    known = _numbers(shared)
    return [
        AssumptionView(
            id=entry.id, text=entry.text, numbers={name: known[name] for name in entry.needs if name in known}
        )
        for entry in mode.assumptions
    ]


def _secrecy_parts(mode: modes.Mode, shared: LinkShared) -> list[EpsilonTermView]:
    """How the proof spends eps_sec."""

    def part(name: str, value: float, text: str) -> EpsilonTermView:
        return EpsilonTermView(name=name, value=value, text=text, part_of="secrecy")

    if shared.decoy is not None and mode.id == "bb84-2decoy/vl":
        receiver = shared.decoy.receiver()
        eps = split_vl(shared.eps_sec, receiver)
        extra = int(receiver.delta1 > 0.0) + int(receiver.delta2 > 0.0)
        words = f"{DECOY_BOUNDS} bounds of counts and the sampling of the phase error" + (
            f", {extra} for unequal detectors" if extra else ""
        )
        return [
            part("estimation", shared.eps_sec - eps.eps_pa, f"2 eps_AT: {words}"),
            part("amplification", eps.eps_pa, "eps_PA: leftover hashing"),
        ]
    terms = {"bb84-2decoy/lim2014": LIM_TERMS, "bb84-1decoy/rusca2018": ONE_DECOY_TERMS["rusca"]}
    terms["bb84-1decoy/wiesemann"] = ONE_DECOY_TERMS["wiesemann"]
    if mode.id in terms:
        count = terms[mode.id]
        return [part("each of its terms", shared.eps_sec / count, f"eps_sec is {count} equal terms")]
    return [
        part(
            "estimation and amplification", shared.eps_sec, "split by the search for each block's test size and slacks"
        )
    ]


def _terms(mode: modes.Mode, shared: LinkShared) -> list[EpsilonTermView]:
    forged = shared.tags_per_block * authentication_epsilon(_LARGEST_PHASE_BITS)
    return [
        EpsilonTermView(name="secrecy", value=shared.eps_sec, text="eps_sec: the key is known to nobody else"),
        *_secrecy_parts(mode, shared),
        EpsilonTermView(
            name="correctness",
            value=shared.eps_cor,
            text=f"eps_cor: the two keys differ although their {TAG_BITS}-bit hashes agree",
        ),
        EpsilonTermView(
            name="authentication",
            value=shared.eps_auth,
            text=f"eps_auth: one of {shared.tags_per_block} tags of {TAG_BITS} bits is forged ({forged:.1e} at 1 Tbit a tag)",
        ),
        EpsilonTermView(
            name="bootstrap",
            value=0.0,
            text="authentication of the first block: certificates (ML-DSA), computational, without a number; once an epoch",
        ),
        EpsilonTermView(
            name="key management",
            value=0.0,
            text="keys cut from one block share that block's terms; nothing is added",
        ),
    ]


def security_view(config: LinkConfig, ledger: LedgerView | None) -> SecurityView:
    """Everything that `qkdctl link security` shows."""
    shared = config.shared
    mode = mode_of(shared)
    return SecurityView(
        link=config.name,
        protocol=shared.protocol,
        proof=mode.id,
        title=mode.title,
        source=mode.source,
        status=mode.status,
        strict=mode.strict,
        label=mode.label,
        length=mode.length,
        attacks=mode.attacks,
        assumptions=_assumptions(mode, shared),
        caveats=list(mode.caveats),
        terms=_terms(mode, shared),
        eps_block=shared.eps_block,
        epoch=ledger.epoch if ledger else None,
        budget=ledger.budget if ledger else None,
        spent=ledger.spent if ledger else None,
        blocks_charged=ledger.blocks if ledger else None,
        blocks_left=ledger.blocks_left if ledger else None,
        days_left=ledger.days_left if ledger else None,
        alert=ledger.alert if ledger else False,
    )
