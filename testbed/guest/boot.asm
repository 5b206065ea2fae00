; The guest of the testbed: a boot image that stamps its pages by a rule, for ever.
;
; Loaded by the BIOS from a disk (MBR convention), needs nothing but a PC's PIC, PIT and COM1.
; After boot it touches no device but those: no disk, no NIC, so nothing of it depends on what a
; migration does to them. The rule is stated in memory.py; the two must agree.
;
; It fills `page_count` pages from `first_page` on with a pattern, says so on COM1, and then on each
; timer tick stamps as many pages as the rate asks for, one after the other, round and round.
; `stamps` counts them in one word, so that a snapshot of memory at any instant is checkable.
;
; nasm -f bin; `scripts/build-guest` makes boot.bin of it.

        org     0x7c00
        bits    16

STAMPS          equ 0x10000             ; u32: stamps written; the page after it is free
TICKS           equ 0x10004             ; u32: timer ticks seen
STACK           equ 0x9f000
PAGE_SHIFT      equ 12
PAGE_WORDS      equ 1024
SECTORS         equ 3                   ; after the first
COM1            equ 0x3f8
PIT_DIVISOR     equ 11932               ; 1193182 Hz / 11932 = 100 Hz
TICKS_PER_LINE  equ 10
FILL_START      equ 0x9e3779b1          ; odd constants of the pattern, see memory.py
FILL_STEP       equ 0x01000193
CHECK_FACTOR    equ 0x85ebca6b
SPINS_MAX       equ 10000               ; of waiting for COM1, so that nobody can stop the guest

        jmp     short start
        times   8 - ($ - $$) db 0
; Parameters, written over by image.py.
magic           db 'TBGUEST1'           ; at 8
seed            dd 0                    ; at 16
first_page      dd 256                  ; at 20
page_count      dd 1024                 ; at 24
rate            dd 1000                 ; at 28: pages a second

start:
        cli
        xor     ax, ax
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     sp, 0x7c00
        mov     ax, 0x0200 + SECTORS    ; BIOS disk read, dl is the boot drive
        mov     cx, 2                   ; cylinder 0, sector 2
        xor     dh, dh
        mov     bx, 0x7e00
        int     0x13
        jc      $                       ; says nothing on COM1: the testbed reports that
        in      al, 0x92                ; A20
        or      al, 2
        and     al, 0xfe
        out     0x92, al
        lgdt    [gdt_pointer]
        mov     eax, cr0
        or      al, 1
        mov     cr0, eax
        jmp     8:protected

gdt:            dq 0
                dq 0x00cf9a000000ffff   ; flat code
                dq 0x00cf92000000ffff   ; flat data
gdt_pointer:    dw 23
                dd gdt

        times   510 - ($ - $$) db 0
        dw      0xaa55

        bits    32
protected:
        mov     ax, 16
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     esp, STACK
        cld
        mov     dword [STAMPS], 0
        mov     dword [TICKS], 0
        call    serial_begin
        mov     esi, text_started
        call    print
        call    fill
        mov     esi, text_filled
        mov     eax, [page_count]
        call    print_number
        call    timer_begin
        sti

; ebx: index of the next page; ebp: its pass; edi: ticks dealt with; esi: hundredths of a page owed
        xor     ebx, ebx
        mov     ebp, 1
        xor     edi, edi
        xor     esi, esi
idle:   hlt
again:  cmp     edi, [TICKS]
        je      idle
        inc     edi
        add     esi, [rate]
.owed:  cmp     esi, 100
        jb      .line
        sub     esi, 100
        call    stamp
        jmp     .owed
.line:  mov     eax, edi
        xor     edx, edx
        mov     ecx, TICKS_PER_LINE
        div     ecx
        test    edx, edx
        jnz     again
        push    esi
        mov     esi, text_stamps
        mov     eax, [STAMPS]
        call    print_number
        pop     esi
        jmp     again

; Stamp page ebx with pass ebp: word 0 is the pass, word 2 the check; then count it, last of all.
stamp:  mov     eax, [first_page]
        add     eax, ebx
        mov     edx, eax
        shl     edx, PAGE_SHIFT
        mov     [edx], ebp
        call    check_word
        mov     [edx + 8], eax
        inc     dword [STAMPS]
        inc     ebx
        cmp     ebx, [page_count]
        jb      .done
        xor     ebx, ebx
        inc     ebp
.done:  ret

; eax: page number, ebp: pass -> eax: check word. Keeps all others.
check_word:
        push    ecx
        call    pattern_start
        mov     ecx, ebp
        imul    ecx, CHECK_FACTOR
        xor     eax, ecx
        pop     ecx
        ret

; eax: page number -> eax: first word of its pattern.
pattern_start:
        imul    eax, eax, FILL_START
        add     eax, [seed]
        ret

; Fill every page of the area with its pattern and the stamp of pass 0.
fill:   xor     ebx, ebx
        xor     ebp, ebp
.page:  mov     edx, [first_page]
        add     edx, ebx
        mov     edi, edx
        shl     edi, PAGE_SHIFT
        mov     esi, edi
        mov     eax, edx
        call    pattern_start
        mov     ecx, PAGE_WORDS
.word:  mov     [edi], eax
        add     eax, FILL_STEP
        add     edi, 4
        dec     ecx
        jnz     .word
        mov     dword [esi], 0
        mov     [esi + 4], edx
        mov     eax, edx
        call    check_word
        mov     [esi + 8], eax
        inc     ebx
        cmp     ebx, [page_count]
        jb      .page
        ret

; 8259 pair at vectors 0x20 and 0x28, all masked but IRQ 0; 8254 channel 0 at 100 Hz.
timer_begin:
        mov     al, 0x11
        out     0x20, al
        out     0xa0, al
        mov     al, 0x20
        out     0x21, al
        mov     al, 0x28
        out     0xa1, al
        mov     al, 4
        out     0x21, al
        mov     al, 2
        out     0xa1, al
        mov     al, 1
        out     0x21, al
        out     0xa1, al
        mov     al, 0xfe
        out     0x21, al
        mov     al, 0xff
        out     0xa1, al
        mov     al, 0x34
        out     0x43, al
        mov     al, PIT_DIVISOR & 0xff
        out     0x40, al
        mov     al, PIT_DIVISOR >> 8
        out     0x40, al
        mov     eax, tick
        mov     [idt + 0x20 * 8], ax
        mov     word [idt + 0x20 * 8 + 2], 8
        mov     word [idt + 0x20 * 8 + 4], 0x8e00
        shr     eax, 16
        mov     [idt + 0x20 * 8 + 6], ax
        lidt    [idt_pointer]
        ret

tick:   push    eax
        inc     dword [TICKS]
        mov     al, 0x20
        out     0x20, al
        pop     eax
        iret

; COM1, 115200 baud, 8N1, no interrupts.
serial_begin:
        mov     esi, serial_registers
        mov     ecx, 6
.next:  movzx   edx, byte [esi]
        add     edx, COM1
        mov     al, [esi + 1]
        out     dx, al
        add     esi, 2
        loop    .next
        ret

; Print the text at esi, then eax in hexadecimal and a newline.
print_number:
        push    eax
        call    print
        pop     eax
        mov     ecx, 8
.digit: rol     eax, 4
        push    eax
        and     al, 15
        add     al, '0'
        cmp     al, '9'
        jbe     .put
        add     al, 'a' - '0' - 10
.put:   call    put
        pop     eax
        loop    .digit
        mov     al, 10
        jmp     put

; Print the text at esi up to its NUL.
print:  lodsb
        test    al, al
        jz      .done
        call    put
        jmp     print
.done:  ret

; Print al; gives up if the UART never gets ready.
put:    push    ecx
        push    edx
        mov     ah, al
        mov     ecx, SPINS_MAX
        mov     edx, COM1 + 5
.wait:  in      al, dx
        test    al, 0x20
        jnz     .ready
        loop    .wait
.ready: mov     edx, COM1
        mov     al, ah
        out     dx, al
        pop     edx
        pop     ecx
        ret

serial_registers:                       ; register, value
        db      1, 0, 3, 0x80, 0, 1, 1, 0, 3, 3, 2, 0xc7
text_started:   db 'guest started', 10, 0
text_filled:    db 'guest filled ', 0
text_stamps:    db 'guest stamps ', 0

idt_pointer:    dw 0x21 * 8 - 1
                dd idt
        align   8
idt:            times 0x21 * 8 db 0

        times   512 * (1 + SECTORS) - ($ - $$) db 0
