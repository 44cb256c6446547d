/* The exported functions: each jumps to the function proper, after a look at whether calls are traced or made to fail. */
    .text

    .macro entry name, number
    .globl \name
    .type \name, @function
\name:
    cmpl $0, sim_watch(%rip)
    jne 1f
    jmp sim_do_\name
1:  movl $\number, %r11d
    leaq sim_do_\name(%rip), %r10
    jmp watched
    .size \name, .-\name
    .endm

/* Number in r11, function proper in r10. All integer argument registers survive; no driver function takes floating point. */
    .type watched, @function
watched:
    pushq %rbp
    movq %rsp, %rbp
    pushq %r9
    pushq %r8
    pushq %rcx
    pushq %rdx
    pushq %rsi
    pushq %rdi
    pushq %r10
    subq $8, %rsp
    movl %r11d, %edi
    leaq 16(%rsp), %rsi
    call sim_watched
    addq $8, %rsp
    popq %r10
    popq %rdi
    popq %rsi
    popq %rdx
    popq %rcx
    popq %r8
    popq %r9
    popq %rbp
    testl %eax, %eax
    jns 2f
    jmp *%r10
2:  ret
    .size watched, .-watched

#include "sim_stubs.inc"

    .section .note.GNU-stack,"",@progbits
