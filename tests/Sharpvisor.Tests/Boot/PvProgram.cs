using System.Text;
using Iced.Intel;
using Sharpvisor.Devices.Xen.Pv;
using static Iced.Intel.AssemblerRegisters;

namespace Sharpvisor.Tests.Boot;

/// <summary>
/// Small paravirtual kernels of 64 bits. R14 is where the kernel's segment begins, in which everything has its place; R15 is
/// where a page fault goes on.
/// </summary>
internal sealed class PvProgram
{
    public const ulong Address = PvKernel.Base + 0x100_0000;

    /// <summary>Frames of the domain below 4 GiB follow those of the hypervisor.</summary>
    public const ulong FirstFrame = PvLayout.FirstFrame + 0x1000;

    public const int ConsoleIo = 18, MultiCall = 13, SchedOp = 29, VcpuOp = 24, EventChannelOp = 32, CallbackOp = 30, Iret = 23, MmuExtOp = 26, UpdateVaMapping = 14;

    // Pages of the segment, behind 8 KiB of code.
    public const int Texts = 0x3000, Arguments = 0x5000, Traps = 0x6000, Context = 0x7000, UserTables = 0x9000, UserCode = 0xD000, UserStack = 0xE000;
    public const int Stack = 0x11000, SecondStack = 0x12000, Shared = 0x13000, Flag = 0x14000, Length = 0x20000;

    public const ulong UserText = 0x400000;

    private readonly Assembler _a = new(64);
    private readonly List<byte> _texts = [];

    private PvProgram()
    {
        _a.mov(r14, Address);
        _a.mov(__[r14 + Flag], rsi); // start_info
        _a.lea(rsp, __[r14 + Stack]);
    }

    /// <summary>An ELF kernel.</summary>
    public static byte[] Elf(Action<PvProgram, Assembler> code)
    {
        var program = new PvProgram();
        code(program, program._a);
        program.ShutDown(0);
        using var stream = new MemoryStream();
        program._a.Assemble(new StreamCodeWriter(stream), Address);
        var image = new byte[Texts + program._texts.Count];
        stream.ToArray().CopyTo(image, 0);
        Assert.True(stream.Length < Texts);
        program._texts.ToArray().CopyTo(image, Texts);
        var kernel = new PvKernel { Code = image, MemoryLength = Length };
        kernel.Notes[PvKernel.EntryNote] = Address;
        return kernel.ToArray();
    }

    public static ulong FrameOf(int offset) => FirstFrame + (ulong)(offset >> 12);

    /// <summary>A hypercall, the result in RAX.</summary>
    public void Call(int number, ulong first = 0, ulong second = 0, ulong third = 0, ulong fourth = 0)
    {
        _a.mov(rdi, first);
        _a.mov(rsi, second);
        _a.mov(rdx, third);
        _a.mov(r10, fourth);
        _a.mov(eax, number);
        _a.syscall();
    }

    /// <summary>The same, which must succeed: else the kernel says which one did not, and ends as crashed.</summary>
    public void Demand(int number, ulong first = 0, ulong second = 0, ulong third = 0, ulong fourth = 0)
    {
        var good = _a.CreateLabel();
        Call(number, first, second, third, fourth);
        _a.test(rax, rax);
        _a.je(good);
        Print($"call {number} {first} fails");
        ShutDown(3);
        _a.Label(ref good);
        _a.nop(); // a label may follow
    }

    /// <summary>A line in Xen's log.</summary>
    public void Print(string text)
    {
        var at = _texts.Count;
        _texts.AddRange(Encoding.ASCII.GetBytes(text + "\n"));
        Call(ConsoleIo, 0, (ulong)text.Length + 1, Address + Texts + (ulong)at);
    }

    public void ShutDown(int reason)
    {
        _a.mov(__dword_ptr[r14 + Arguments], reason);
        Call(SchedOp, 2, Address + Arguments);
        _a.ud2();
    }

    /// <summary>Words at the beginning of the page of arguments.</summary>
    public ulong Words(params ulong[] words) => Place(Arguments, words);

    public ulong Place(int at, params ulong[] words)
    {
        foreach (var word in words)
        {
            _a.mov(rax, word);
            _a.mov(__[r14 + at], rax);
            at += 8;
        }

        return Address + (ulong)(at - (words.Length * 8));
    }

    /// <summary>An entry of the trap table in the page of arguments; the last one has the address 0.</summary>
    public void SetTrap(int index, int vector, int flags, Label handler)
    {
        _a.mov(rax, (uint)vector | ((ulong)(uint)flags << 8) | (0xE033UL << 16));
        _a.mov(__[r14 + Traps + (index * 16)], rax);
        _a.lea(rax, __[handler]);
        _a.mov(__[r14 + Traps + (index * 16) + 8], rax);
    }

    public void Register(int kind, Label entry)
    {
        _a.mov(__qword_ptr[r14 + Arguments], kind);
        _a.lea(rax, __[entry]);
        _a.mov(__[r14 + Arguments + 8], rax);
        Demand(CallbackOp, 0, Address + Arguments);
    }

    /// <summary>The end of a handler: RSP is at the frame's RIP, and RCX and R11 are as they were.</summary>
    public void Back()
    {
        _a.push(0);
        _a.push(rcx);
        _a.push(r11);
        _a.push(rax);
        _a.mov(eax, Iret);
        _a.syscall();
    }

    /// <summary>HYPERVISOR_iret to anything.</summary>
    public void Return(ulong rip, ulong cs, ulong flags = 0x202, ulong rsp = 0, ulong ss = 0xE02B)
    {
        foreach (var word in (ulong[])[ss, rsp, flags, cs, rip, 0, 0, 0, 0])
        {
            _a.mov(rax, word);
            _a.push(rax);
        }

        _a.mov(eax, Iret);
        _a.syscall();
    }
}
