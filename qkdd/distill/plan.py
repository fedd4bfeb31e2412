"""What both nodes agree on before a test bit is opened: sizes, tolerated error, leak budget, length.

`plan_block` is a pure function of the sifted size, the tolerated error and the shared configuration; each node computes it
and the two results must be equal. Nothing that is observed in the block changes a plan: it is kept or the block is refused.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from qkdd.distill.config import DistillConfig, Method, ProofName
from qkdd.distill.decoy_config import DecoyProof
from qkdd.distill.errors import BlockRefused, BlockTooShort, BlockUnpaid, NoLength
from qkdd.distill.layout import ldpc_leak
from qkdd.security.accounting import TAG_BITS, authentication_epsilon, compose
from qkdd.security.bbm92 import Choice, lim21_choose, tl2017_choose
from qkdd.security.entropy import check_count, check_fraction, h2_bound
from qkdd.security.errors import ProofInputError

VERDICT_BITS = 1  # bob's "the hashes agree" depends on both keys
SMALLEST_BLOCK = 64
SACRIFICED_BITS = 20_000  # of a block that makes no key: enough to know its error rate to a tenth of a percent

# Parities (of each side) beyond the Shannon share: the passes over half the frame and one bisection in one of them.
_LEAK_FLOOR = 64


@dataclass(frozen=True, slots=True)
class BlockPlan:
    """m sifted bits, of which k are opened and n = m - k make key; all counts in bits, rates as fractions.

    leak_budget: key-dependent bits of error correction, both directions, verdict included, tag not. tag_bits: verification
    tag. length: secret bits of the accepted block. nu, xi: slacks of the proof. auth_bits: key that the block's own tags
    cost. eps_sec, eps_cor, eps_auth: secrecy, correctness and authentication error; `eps` is their sum. method: of error
    correction, for which leak_budget is sized; ldpc_frame: most bits of a frame. reason: why alice chose it, for people.
    refusal: code of why the block can make no key (length 0); its test bits are opened all the same, to learn the error rate.
    """

    proof: ProofName | DecoyProof
    m: int
    k: int
    n: int
    tolerated_error: float
    leak_budget: int
    tag_bits: int
    length: int
    nu: float
    xi: float
    eps_pe: float
    eps_pa: float
    eps_sec: float
    eps_cor: float
    eps_auth: float
    auth_bits: int
    method: Method = "cascade"
    ldpc_frame: int = 0
    reason: str = ""
    refusal: str = ""

    @property
    def eps(self) -> float:
        return compose(self.eps_sec, self.eps_cor, self.eps_auth)

    @property
    def net_length(self) -> int:
        """Secret bits left after the block's own authentication is paid."""
        return self.length - self.auth_bits

    @property
    def errors_allowed(self) -> int:
        """Most errors among the k opened bits with which the block goes on."""
        return math.floor(self.tolerated_error * self.k)


def worst_error(n: int, tolerated_error: float, config: DistillConfig) -> float:
    """The error rate of n bits for which a leak budget is sized.

    The error that is expected, which is the tolerated error less the margin, plus half the margin or three standard deviations
    of the count of errors, whichever is more.
    """
    expected = max(0.0, tolerated_error - config.error_margin)
    spread = math.sqrt(max(tolerated_error, 1.0 / n) / n)
    return min(0.5, max(tolerated_error - config.error_margin / 2.0, expected + 3.0 * spread))


def leak_budget(n: int, tolerated_error: float, config: DistillConfig, method: Method = "cascade") -> int:
    """Key-dependent bits that error correction of n bits may disclose, both directions, verdict included.

    Cascade: each parity of alice costs two bits, because bob's own parity of the same range follows from what he does next
    (S7.1). LDPC: alice's syndromes once, and what bob answers. Raises NoLength if no LDPC code discloses that much.
    """
    error = worst_error(n, tolerated_error, config)
    if method == "ldpc":
        return ldpc_leak(n, error, config.ldpc_frame) + VERDICT_BITS
    one_way = min(n, math.ceil(config.leak_efficiency * n * h2_bound(error)) + _LEAK_FLOOR)
    return 2 * one_way + VERDICT_BITS


def plan_block(m: int, tolerated_error: float, config: DistillConfig, method: Method | None = None) -> BlockPlan:
    """The plan for a block of m sifted bits at this tolerated error; without a method the one that makes the longer key.

    Raises BlockTooShort below 64 bits, NoLength if the proof gives nothing, BlockUnpaid if the length does not exceed the key
    that the block's own tags consume, ProofInputError on numbers outside any meaning.
    """
    if method is None:
        plans, refusals = plans_of(m, tolerated_error, config)
        if not plans:
            raise refusals[-1]
        return max(plans, key=lambda plan: plan.length)
    m = check_count("m", m)
    delta = check_fraction("tolerated_error", tolerated_error, high=0.5)
    if m < SMALLEST_BLOCK:
        raise BlockTooShort(f"{m} sifted bits are fewer than {SMALLEST_BLOCK}", sifted=m)
    tag = TAG_BITS
    if authentication_epsilon(m, tag) > config.eps_cor:
        raise ProofInputError(f"a tag of {tag} bits cannot meet eps_cor = {config.eps_cor}", name="eps_cor")

    def leak_of(n: int) -> int:
        return leak_budget(n, delta, config, method)

    proof: ProofName = "bbm92/lim2021" if m < config.small_block else config.proof
    choice: Choice | None
    if proof == "bbm92/tl2017":
        choice = tl2017_choose(m, delta, leak_of, tag, config.eps_sec)
    else:
        choice = lim21_choose(m, delta, leak_of, tag, config.eps_sec)
    if choice is None or choice.length.l_bits <= 0:
        raise NoLength(
            f"{m} sifted bits at a tolerated error of {delta:.4f} give no secret bit", sifted=m, tolerated_error=delta
        )
    auth_bits = config.tags_per_block * TAG_BITS
    length = choice.length.l_bits
    if length <= auth_bits:
        raise BlockUnpaid(
            f"{length} secret bits do not pay for {config.tags_per_block} tags of {TAG_BITS} bits",
            length=length,
            auth_bits=auth_bits,
        )
    return BlockPlan(
        proof=proof,
        m=m,
        k=choice.k,
        n=m - choice.k,
        tolerated_error=delta,
        leak_budget=leak_of(m - choice.k),
        tag_bits=tag,
        length=length,
        nu=choice.nu,
        xi=choice.xi,
        eps_pe=choice.eps_pe,
        eps_pa=choice.eps_pa,
        eps_sec=config.eps_sec,
        eps_cor=config.eps_cor,
        eps_auth=config.eps_auth,
        auth_bits=auth_bits,
        method=method,
        ldpc_frame=config.ldpc_frame if method == "ldpc" else 0,
    )


def methods(config: DistillConfig) -> tuple[Method, ...]:
    """What the configuration allows."""
    return ("ldpc", "cascade") if config.reconciler == "auto" else (config.reconciler,)


def plans_of(m: int, tolerated_error: float, config: DistillConfig) -> tuple[list[BlockPlan], list[BlockRefused]]:
    """The plans of all allowed methods, and why those without a key have none. Raises what no method can help."""
    plans: list[BlockPlan] = []
    refusals: list[BlockRefused] = []
    for method in methods(config):
        try:
            plans.append(plan_block(m, tolerated_error, config, method))
        except (NoLength, BlockUnpaid) as refusal:
            refusals.append(refusal)
    return plans, refusals


def sacrifice_plan(m: int, tolerated_error: float, config: DistillConfig, refusal: str) -> BlockPlan:
    """The plan of a block that makes no key: some of its bits are opened, the rest is discarded.

    Without it a link whose error once rose too high could never learn that it has fallen again.
    """
    k = min(check_count("m", m), SACRIFICED_BITS)
    return BlockPlan(
        proof=config.proof,
        m=m,
        k=k,
        n=m - k,
        tolerated_error=check_fraction("tolerated_error", tolerated_error, high=0.5),
        leak_budget=0,
        tag_bits=TAG_BITS,
        length=0,
        nu=0.0,
        xi=0.0,
        eps_pe=0.0,
        eps_pa=0.0,
        eps_sec=config.eps_sec,
        eps_cor=config.eps_cor,
        eps_auth=config.eps_auth,
        auth_bits=config.tags_per_block * TAG_BITS,
        refusal=refusal,
    )


def least_leak(n: int, tolerated_error: float, config: DistillConfig) -> tuple[Method, int]:
    """The allowed method with the smallest leak budget for n key bits, and that budget: the same on both nodes.

    Raises NoLength if no allowed method corrects that much.
    """
    budgets: list[tuple[int, Method]] = []
    for method in methods(config):
        try:
            budgets.append((leak_budget(n, tolerated_error, config, method), method))
        except NoLength:
            continue
    if not budgets:
        raise NoLength(
            f"no allowed method corrects an error rate of {tolerated_error:.4f}", tolerated_error=tolerated_error
        )
    budget, best = min(budgets)
    return best, budget


def correction_plan(
    n: int, sample: tuple[int, int], tolerated_error: float, config: DistillConfig, proof: DecoyProof
) -> BlockPlan:
    """What `reconcile` follows where no key bit is ever opened: n key bits of a decoy block, and how many of the `sample`
    (errors, size) of other bits were wrong. It fixes no length: that is the decoy pipeline's. Raises NoLength."""
    delta = check_fraction("tolerated_error", tolerated_error, high=0.5)
    method, budget = least_leak(n, delta, config)
    return BlockPlan(
        proof=proof,
        m=n + sample[1],
        k=sample[1],
        n=n,
        tolerated_error=delta,
        leak_budget=budget,
        tag_bits=TAG_BITS,
        length=0,
        nu=0.0,
        xi=0.0,
        eps_pe=0.0,
        eps_pa=0.0,
        eps_sec=config.eps_sec,
        eps_cor=config.eps_cor,
        eps_auth=config.eps_auth,
        auth_bits=config.tags_per_block * TAG_BITS,
        method=method,
        ldpc_frame=config.ldpc_frame if method == "ldpc" else 0,
        reason="the smaller leak budget" if len(methods(config)) > 1 else "configured",
    )
