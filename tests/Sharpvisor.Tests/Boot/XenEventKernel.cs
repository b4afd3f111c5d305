using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Sharpvisor.Tests.Boot;

/// <summary>
/// A kernel of 32 bits in an HVM domain that knows no APIC: its events come by IRQ 5 of the PIC. It sends itself some, waits for each,
/// and powers off.
/// </summary>
internal static class XenEventKernel
{
    /// <summary>How many it sends, and where it counts interrupts with an event and without one.</summary>
    public const int Events = 5;

    public const ulong Interrupts = 0x6000, Empty = 0x6004;

    private const uint Address = 0x1000000, HypercallPage = 0x200000, SharedInfo = 0x201000, Descriptors = 0x202000, Stack = 0x90000, Arguments = 0x5000;
    private const int MemoryOp = 12, SchedOp = 29, EventChannelOp = 32, HvmOp = 34;
    private const int Irq = 5, FirstVector = 0x20;

    public static byte[] Elf(bool isLevel)
    {
        var c = new Assembler(32);
        var (start, next, wait, isTold) = (c.CreateLabel(), c.CreateLabel(), c.CreateLabel(), c.CreateLabel());
        c.mov(esp, Stack);
        c.call(start); // past the handler, whose address is on the stack

        // The interrupt: as of a kernel that ends an edge before it looks, and a level afterwards.
        c.pushad();
        if (!isLevel)
            Out(0x20, 0x20);
        c.xor(eax, eax);
        c.xchg(__byte_ptr[SharedInfo], al); // upcall_pending
        c.inc(__dword_ptr[(uint)Interrupts]);
        c.test(al, al);
        c.jne(isTold);
        c.inc(__dword_ptr[(uint)Empty]);
        c.Label(ref isTold);
        c.mov(__dword_ptr[SharedInfo + 4], 0); // pending_sel
        c.mov(__dword_ptr[SharedInfo + 0x800], 0);
        if (isLevel)
            Out(0x20, 0x20);
        c.popad();
        c.iretd();

        c.Label(ref start);
        c.mov(eax, 0x40000002);
        c.cpuid();
        c.mov(ecx, ebx);
        c.mov(eax, HypercallPage);
        c.xor(edx, edx);
        c.wrmsr();

        // An IDT with one gate, in the segment that it was started with.
        c.pop(eax);
        c.mov(ecx, cs);
        c.shl(ecx, 16);
        c.mov(cx, ax);
        c.mov(__dword_ptr[Descriptors + ((FirstVector + Irq) * 8)], ecx);
        c.and(eax, unchecked((int)0xFFFF0000));
        c.or(eax, 0x8E00);
        c.mov(__dword_ptr[Descriptors + ((FirstVector + Irq) * 8) + 4], eax);
        c.mov(__word_ptr[Arguments], 0x7FF);
        c.mov(__dword_ptr[Arguments + 2], Descriptors);
        c.lidt(__[Arguments]);
        foreach (var (port, value) in new[] { (0x20, 0x11), (0x21, FirstVector), (0x21, 4), (0x21, 1), (0x21, 0xFF & ~(1 << Irq)), (0x4D0, isLevel ? 1 << Irq : 0) })
            Out(port, value);

        Put(0x7FF0, 0, 0, SharedInfo >> 12); // XENMEM_add_to_physmap: shared_info
        Call(MemoryOp, 7);
        c.mov(__byte_ptr[SharedInfo], 0);
        c.mov(__dword_ptr[SharedInfo + 4], 0);
        Put(0x7FF0, 0, Irq, 0); // HVM_PARAM_CALLBACK_IRQ: a line
        Call(HvmOp, 0);
        Put(0); // EVTCHNOP_bind_ipi
        Call(EventChannelOp, 7);
        c.mov(edi, __dword_ptr[Arguments + 4]);
        c.mov(__dword_ptr[SharedInfo + 0x880], 0); // no port is masked
        c.mov(__dword_ptr[(uint)Interrupts], 0);
        c.mov(__dword_ptr[(uint)Empty], 0);
        c.xor(esi, esi);
        c.sti();

        c.Label(ref next);
        c.inc(esi);
        c.mov(__dword_ptr[Arguments], edi);
        Call(EventChannelOp, 4); // EVTCHNOP_send
        c.Label(ref wait);
        c.cmp(__dword_ptr[(uint)Interrupts], esi);
        c.jb(wait);
        c.cmp(esi, Events);
        c.jb(next);
        c.mov(ecx, 0x10000); // whatever comes without an event comes now
        var idle = c.CreateLabel();
        c.Label(ref idle);
        c.loop(idle);
        Put(0); // SHUTDOWN_poweroff
        Call(SchedOp, 2);
        c.cli();
        c.hlt();

        using var stream = new MemoryStream();
        c.Assemble(new StreamCodeWriter(stream), Address);
        return SyntheticKernel.ElfWith(stream.ToArray(), Address);

        void Out(int port, int value)
        {
            c.mov(edx, port);
            c.mov(eax, value);
            c.@out(dx, al);
        }

        void Put(params uint[] words)
        {
            for (var i = 0; i < words.Length; i++)
                c.mov(__dword_ptr[Arguments + (uint)(i * 4)], unchecked((int)words[i]));
        }

        void Call(int number, int command)
        {
            c.mov(ebx, command);
            c.mov(ecx, Arguments);
            c.mov(eax, HypercallPage + (uint)(number * 32));
            c.call(eax);
        }
    }
}
