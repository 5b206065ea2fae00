; The guest of the testbed: a boot image that stamps its pages by a rule, for ever.
;
; Loaded by the BIOS from a disk (MBR convention), needs nothing but a PC's PIC, PIT and COM1.
; After boot it touches no device but those: no disk, no NIC, so nothing of it depends on what a
; migration does to them. The rule is stated in rule.py; the two must agree.
;
; It fills `page_count` pages from `first_page` on with a pattern, says so on COM1, and then stamps
; them one after the other, round and round, at `rate` pages a second. How far it has come is in
; one place and advances in one store, so that memory at any instant can be checked. The image
; itself is never written to: all that changes outside the workload lies in the state page.
;
; nasm -f bin; `scripts/build-guest` makes boot.bin of it.

        org     0x7c00
        bits    16

STATE           equ 0x10000             ; the state page, see rule.py
STATE_MAGIC     equ STATE               ; 'TBGSTATE' once the pages are filled
STATE_INDEX     equ STATE + 8           ; u32: index of the page to be stamped next
STATE_PASS      equ STATE + 12          ; u32: pass that it gets, from 1; pages before it have it
STATE_TICKS     equ STATE + 16          ; u32: timer ticks since the pages are filled
STATE_POLLS     equ STATE + 20          ; u32: polls of COM1 that this line may still cost
STACK           equ STATE + 4096
PAGE_SHIFT      equ 12
PAGE_WORDS      equ 1024
SECTORS         equ 2                   ; after the first
COM1            equ 0x3f8
CR4_PSE         equ 0x10
TICKS_PER_SECOND equ 100
PIT_DIVISOR     equ 11932               ; 1193182 Hz / 11932 = 100 Hz
TICKS_PER_LINE  equ 10
POLLS_MAX       equ 1000                ; a line: some ms, so that nobody can stop the guest
FILL_START      equ 0x9e3779b1          ; odd constants of the pattern, see rule.py
FILL_STEP       equ 0x01000193
CHECK_FACTOR    equ 0x85ebca6b

        jmp     short start
        times   8 - ($ - $$) db 0
; Parameters, written over by image.py.
magic           db 'TBGUEST1'           ; at 8
seed            dd 0                    ; at 16
first_page      dd 256                  ; at 20
page_count      dd 1024                 ; at 24
rate            dd 1000                 ; at 28: pages a second

start:  cli
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
        jc      unreadable
        in      al, 0x92                ; A20
        or      al, 2
        and     al, 0xfe                ; bit 0 would reset the machine
        out     0x92, al
        lgdt    [gdt_pointer]
        mov     eax, cr0
        or      al, 1
        mov     cr0, eax
        jmp     8:protected

unreadable:                             ; says nothing on COM1, and costs nothing
        cli
        hlt
        jmp     unreadable

        align   8
gdt:            dq 0
                dq 0x00cf9b000000ffff   ; flat code, marked accessed: the CPU need not write here
                dq 0x00cf93000000ffff   ; flat data, likewise
gdt_pointer:    dw 3 * 8 - 1
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
        xor     eax, eax                ; the state page, which an earlier boot may have left
        mov     edi, STATE
        mov     ecx, PAGE_WORDS
        rep     stosd
        lidt    [idt_pointer]
        call    serial_begin
        mov     esi, text_started
        call    print
        call    fill
        mov     dword [STATE_PASS], 1
        mov     dword [STATE_MAGIC], 'TBGS'
        mov     dword [STATE_MAGIC + 4], 'TATE'
        mov     esi, text_filled
        xor     edx, edx
        mov     eax, [page_count]
        call    print_number
        call    timer_begin

; ebx: index of the next page; ecx: its pass; edi: ticks dealt with; esi: 1/100 pages owed
        xor     ebx, ebx
        mov     ecx, 1
        xor     edi, edi
        xor     esi, esi
        sti
run:    cmp     edi, [STATE_TICKS]
        jne     .tick
        cmp     esi, TICKS_PER_SECOND
        jb      .rest
        sub     esi, TICKS_PER_SECOND
        call    stamp
        jmp     run

.rest:  cli
        cmp     edi, [STATE_TICKS]
        jne     .awake
        sti                             ; takes effect after the next instruction: a tick that
        hlt                             ; has come since is not slept over
.awake: sti
        jmp     run

.tick:  inc     edi
        add     esi, [rate]
        imul    eax, [rate], TICKS_PER_SECOND
        cmp     esi, eax                ; a second's work is owed at most: what it could not do
        jbe     .owed                   ; for longer it need not make up for
        mov     esi, eax
.owed:  xor     edx, edx
        mov     eax, edi
        push    ecx
        mov     ecx, TICKS_PER_LINE
        div     ecx
        pop     ecx
        test    edx, edx
        jnz     run
        call    print_stamps
        jmp     run

; Stamp page ebx with pass ecx: word 0 is the pass, word 2 the check; advance both; and only then
; say so in the state page, in one store. First flush the TLB, as a guest that switches processes
; does all the time: TCG before QEMU 9.0 forgets writes through an entry that it has kept since a
; migration's dirty bitmap was cleared, and the migration then completes with stale pages. Writing
; a changed CR4.PSE flushes with paging off as well.
stamp:  mov     eax, cr4
        xor     eax, CR4_PSE
        mov     cr4, eax
        mov     eax, [first_page]
        add     eax, ebx
        mov     edx, eax
        shl     edx, PAGE_SHIFT
        mov     [edx], ecx
        call    check_word
        mov     [edx + 8], eax
        inc     ebx
        cmp     ebx, [page_count]
        jb      .say
        xor     ebx, ebx
        inc     ecx
.say:   cmpxchg8b [STATE_INDEX]         ; fails once, and then edx:eax is what is there
        jnz     .say
        ret

; eax: page number, ecx: pass -> eax: check word. Keeps all others.
check_word:
        push    ecx
        imul    ecx, ecx, CHECK_FACTOR
        call    pattern_start
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
.page:  mov     edx, [first_page]
        add     edx, ebx
        mov     edi, edx
        shl     edi, PAGE_SHIFT
        mov     esi, edi
        mov     eax, edx
        call    pattern_start
        mov     ebp, eax
        mov     ecx, PAGE_WORDS
.word:  mov     [edi], eax
        add     eax, FILL_STEP
        add     edi, 4
        dec     ecx
        jnz     .word
        mov     [esi], ecx
        mov     [esi + 4], edx
        mov     [esi + 8], ebp          ; the check word of pass 0
        inc     ebx
        cmp     ebx, [page_count]
        jb      .page
        ret

; 8259 pair at vectors 0x20 and 0x28, all masked but IRQ 0; 8254 channel 0 at 100 Hz.
timer_begin:
        mov     esi, timer_ports
        mov     ecx, (timer_ports.end - timer_ports) / 2
        xor     edx, edx
.next:  mov     dl, [esi]
        mov     al, [esi + 1]
        out     dx, al
        add     esi, 2
        loop    .next
        ret

tick:   push    eax
        inc     dword [STATE_TICKS]
        mov     al, 0x20                ; end of interrupt
        out     0x20, al
        pop     eax
        iret

; COM1, 115200 baud, 8N1, no interrupts.
serial_begin:
        mov     esi, serial_registers
        mov     ecx, (serial_registers.end - serial_registers) / 2
.next:  movzx   edx, byte [esi]
        add     edx, COM1
        mov     al, [esi + 1]
        out     dx, al
        add     esi, 2
        loop    .next
        ret

; Print how many stamps there were: (ecx - 1) * page_count + ebx. Keeps all registers.
print_stamps:
        pushad
        lea     eax, [ecx - 1]
        mul     dword [page_count]
        add     eax, ebx
        adc     edx, 0
        mov     esi, text_stamps
        call    print_number
        popad
        ret

; Print the line of text esi and edx:eax, 16 hexadecimal digits.
print_number:
        push    eax
        call    print
        mov     ebx, edx
        call    .half
        pop     ebx
        call    .half
        mov     al, 10
        jmp     put
.half:  mov     ecx, 8
.digit: rol     ebx, 4
        mov     al, bl
        and     al, 15
        add     al, '0'
        cmp     al, '9'
        jbe     .put
        add     al, 'a' - '0' - 10
.put:   call    put
        loop    .digit
        ret

; Begin a line: print the text at esi up to its NUL.
print:  mov     dword [STATE_POLLS], POLLS_MAX
.next:  lodsb
        test    al, al
        jz      .done
        call    put
        jmp     .next
.done:  ret

; Print al, or drop it if COM1 is not ready for it within what polls the line has left.
put:    push    edx
        mov     ah, al
        mov     edx, COM1 + 5
.wait:  in      al, dx
        test    al, 0x20
        jnz     .ready
        cmp     dword [STATE_POLLS], 0
        je      .done
        dec     dword [STATE_POLLS]
        jmp     .wait
.ready: mov     edx, COM1
        mov     al, ah
        out     dx, al
.done:  pop     edx
        ret

serial_registers:                       ; register, value
        db      1, 0, 3, 0x80, 0, 1, 1, 0, 3, 3, 2, 0xc7
.end:
timer_ports:                            ; port, value
        db      0x20, 0x11, 0xa0, 0x11  ; 8259: ICW1
        db      0x21, 0x20, 0xa1, 0x28  ; ICW2: vectors
        db      0x21, 4, 0xa1, 2        ; ICW3: the second one at IRQ 2
        db      0x21, 1, 0xa1, 1        ; ICW4
        db      0x21, 0xfe, 0xa1, 0xff  ; masks
        db      0x43, 0x34              ; 8254: channel 0, rate generator
        db      0x40, PIT_DIVISOR & 0xff, 0x40, PIT_DIVISOR >> 8
.end:
text_started:   db 'guest started', 10, 0
text_filled:    db 'guest filled ', 0
text_stamps:    db 'guest stamps ', 0

idt_pointer:    dw 0x21 * 8 - 1
                dd idt
        align   8
idt:            times 0x20 dq 0
                dw tick, 8, 0x8e00, 0   ; interrupt gate of vector 0x20, IRQ 0

        times   512 * (1 + SECTORS) - ($ - $$) db 0
