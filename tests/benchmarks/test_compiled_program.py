"""What is read from a compiled program's text: of a made-up one with exchanges, and of real ones on the CPU."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks.compiled_program import Collective, CompiledProgram

_TEXT = """\
HloModule jit_call, is_scheduled=true, input_output_alias={ {0}: (0, {}, may-alias), {1, 2}: (3, {}, must-alias) }

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  ROOT %sum = f32[] add(%a, %b)
}

%inner (x: f32[8,2]) -> f32[8,2] {
  %x = f32[8,2]{1,0:T(8,128)} parameter(0)
  ROOT %all-gather.2 = bf16[8,4]{1,0:T(8,128)(2,1)} all-gather(%x), channel_id=2, dimensions={1}
}

%body (state: (s32[], f32[8,2])) -> (s32[], f32[8,2]) {
  %state = (s32[], f32[8,2]) parameter(0)
  %all-reduce-start.1 = (f32[100]{0:T(128)}, bf16[7]{0}) all-reduce-start(%p, %q), channel_id=1, to_apply=%add
  %done = (f32[100]{0:T(128)}, bf16[7]{0}) all-reduce-done(%all-reduce-start.1)
  %called = f32[8,2] call(%state), to_apply=%inner
  %feed = ((f32[3]), token[]) infeed(%token)
}

%condition (state: (s32[], f32[8,2])) -> pred[] {
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (arg: f32[8,2]) -> f32[8,2] {
  %arg = f32[8,2] parameter(0), metadata={op_name="all-reduce("}
  %loop = (s32[], f32[8,2]) while(%start), condition=%condition, body=%body
  ROOT %all-reduce.7 = pred[16]{0} all-reduce(%arg), channel_id=3, to_apply=%add
}
"""


def test_exchanges_are_found_with_their_bytes_within_loops_and_after_them():
    found = CompiledProgram(_TEXT).collectives()
    assert sorted(found, key=lambda one: one.bytes) == [
        Collective("all-reduce", (("pred", 16),), in_loop=False),
        Collective("all-gather", (("bf16", 64),), in_loop=True),
        Collective("all-reduce", (("f32", 400), ("bf16", 14)), in_loop=True),
    ]


def test_transfers_to_the_host_count_within_loops_only():
    assert [line.split(" = ")[0] for line in CompiledProgram(_TEXT).host_transfers_in_loops()] == ["%feed"]
    feed = "  %feed = ((f32[3]), token[]) infeed(%token)\n"
    after = _TEXT.replace(feed, "").replace("  %loop", f"{feed}  %loop")
    assert CompiledProgram(after).host_transfers_in_loops() == []


def test_donated_arguments_are_those_whose_memory_is_reused():
    assert CompiledProgram(_TEXT).reused_arguments() == {0, 3}

    def call(state, x):
        return state + x, x * 2

    x = jnp.zeros(1000)
    compiled = {donated: jax.jit(call, donate_argnums=donated).lower(x, x).compile() for donated in ((), (0,))}
    assert {key: CompiledProgram(one.as_text()).reused_arguments() for key, one in compiled.items()} == {
        (): set(),
        (0,): {0},
    }


@pytest.mark.parametrize("inside", [True, False])
def test_a_callback_in_a_real_loop_is_a_transfer(inside):
    def body(i, x):
        if inside:
            jax.debug.callback(lambda y: None, x[0])
        return jnp.sin(x) + i

    def call(x):
        x = jax.lax.fori_loop(0, x.astype(int)[0], body, x)
        if not inside:
            jax.debug.callback(lambda y: None, x[0])
        return x

    program = CompiledProgram(jax.jit(call).lower(jnp.ones(9)).compile().as_text())
    assert bool(program.host_transfers_in_loops()) == inside
    assert program.collectives() == []
