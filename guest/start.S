/* SPDX-License-Identifier: MIT */
/* start.S - PVH entry: 32-bit protected mode without paging, ebx = physical address of the start info.
 *
 * Maps the first 4 GiB one to one with 2 MiB pages, goes to long mode and
 * calls bare_main(start_info). What lies above is mapped by it, if at all.
 */
#define XEN_ELFNOTE_PHYS32_ENTRY 18
#define STACK_SIZE 65536

#define PAGE_PRESENT_WRITE 3
#define PAGE_LARGE 0x80
#define CR4_PAE 0x20
#define CR0_PAGING 0x80000000
#define MSR_EFER 0xc0000080
#define EFER_LONG_MODE 0x100
#define CODE_SELECTOR 8
#define DATA_SELECTOR 16

	.section .note.pvh, "a", @note
	.long 4, 4, XEN_ELFNOTE_PHYS32_ENTRY
	.asciz "Xen"
	.long start

	.section .text.start, "ax"
	.code32
	.globl start
start:
	cli
	cld
	mov $stack_top, %esp
	mov %ebx, %ebp

	/* one level points to the next, the last one holds large pages */
	movl $(pdpt + PAGE_PRESENT_WRITE), pml4
	mov $pdpt, %edi
	mov $(directories + PAGE_PRESENT_WRITE), %eax
	mov $4, %ecx
1:	mov %eax, (%edi)
	add $8, %edi
	add $4096, %eax
	loop 1b
	mov $directories, %edi
	mov $(PAGE_LARGE + PAGE_PRESENT_WRITE), %eax
	mov $2048, %ecx
2:	mov %eax, (%edi)
	add $8, %edi
	add $0x200000, %eax
	loop 2b

	mov $pml4, %eax
	mov %eax, %cr3
	mov %cr4, %eax
	or $CR4_PAE, %eax
	mov %eax, %cr4
	mov $MSR_EFER, %ecx
	rdmsr
	or $EFER_LONG_MODE, %eax
	wrmsr
	mov %cr0, %eax
	or $CR0_PAGING, %eax
	mov %eax, %cr0
	lgdt gdt_pointer
	ljmp $CODE_SELECTOR, $long_mode

	.code64
long_mode:
	mov $DATA_SELECTOR, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %ss
	mov $stack_top, %rsp
	mov %ebp, %edi
	xor %ebp, %ebp
	call bare_main
3:	cli
	hlt
	jmp 3b

/* Entries of the interrupt table. C saves the rest, there is no other state (-mgeneral-regs-only). */
	.globl enter_device, enter_spurious, enter_fault
enter_device:
	push %rax
	push %rcx
	push %rdx
	push %rsi
	push %rdi
	push %r8
	push %r9
	push %r10
	push %r11		/* with what the processor pushed the stack is aligned to 16 again */
	cld
	call device_interrupt
	pop %r11
	pop %r10
	pop %r9
	pop %r8
	pop %rdi
	pop %rsi
	pop %rdx
	pop %rcx
	pop %rax
	cmpq $asleep, (%rsp)	/* interrupted before it slept: see interrupts_wait */
	jne enter_spurious
	incq (%rsp)
enter_spurious:
	iretq

/*
 * No interrupt comes between sti and hlt, on real processors. In a guest of KVM in QEMU's TCG one can: its VMRUN
 * (QEMU 7.2) forgets the shadow of the sti when the host was interrupted there. So the handler steps over a hlt
 * that was not reached, or this would sleep on what has come already.
 */
	.globl interrupts_wait
interrupts_wait:
	sti
asleep:	hlt
	cli
	ret

enter_fault:
	mov %rsp, %rdi
	and $-16, %rsp
	cld
	call fault

	.section .rodata
	.balign 8
gdt:	.quad 0
	.quad 0x00af9a000000ffff
	.quad 0x00cf92000000ffff
gdt_pointer:
	.word . - gdt - 1
	.long gdt

	.section .bss
	.balign 4096
	.globl pdpt
pml4:	.skip 4096
pdpt:	.skip 4096
directories:
	.skip 4 * 4096
	.skip STACK_SIZE
stack_top:

	.section .note.GNU-stack, "", @progbits
