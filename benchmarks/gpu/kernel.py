"""The kernel of the experiments, as PTX of our own: so much arithmetic on every multiprocessor, and nothing else.

It does work instead of watching a clock, because a clock goes on while another process has the card. How long it takes alone is
measured first. The simulated card has no arithmetic: its kernel ``spin`` takes nanoseconds.
"""

from __future__ import annotations

from typing import Final

PTX: Final = b"""
.version 7.0
.target sm_70
.address_size 64
.visible .entry burn(.param .u64 rounds, .param .u64 sink)
{
    .reg .pred %p<3>;
    .reg .f32 %f<9>;
    .reg .u64 %r<4>;
    ld.param.u64 %r1, [rounds];
    ld.param.u64 %r2, [sink];
    mov.f32 %f1, 0f3F800001;
    mov.f32 %f2, 0f3F800002;
    mov.f32 %f3, 0f3F800003;
    mov.f32 %f4, 0f3F800004;
    mov.f32 %f5, 0f3F7FFFFF;
    mov.f32 %f6, 0f33D6BF95;
AGAIN:
    fma.rn.f32 %f1, %f1, %f5, %f6;
    fma.rn.f32 %f2, %f2, %f5, %f6;
    fma.rn.f32 %f3, %f3, %f5, %f6;
    fma.rn.f32 %f4, %f4, %f5, %f6;
    sub.u64 %r1, %r1, 1;
    setp.ne.u64 %p1, %r1, 0;
    @%p1 bra AGAIN;
    add.f32 %f7, %f1, %f2;
    add.f32 %f8, %f3, %f4;
    add.f32 %f7, %f7, %f8;
    setp.eq.f32 %p2, %f7, 0f00000000;
    @!%p2 bra DONE;
    st.global.f32 [%r2], %f7;
DONE:
    ret;
}
\0"""
"""Entry ``burn(u64 rounds, u64 sink)``. The store never happens; it keeps the compiler from dropping the loop."""
