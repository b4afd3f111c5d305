using System.Text;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Sharpvisor.Tests.Boot;

/// <summary>
/// A PVH kernel of 32 bits such as test suites for Xen are made of: it calls by the hypercall page, writes to Xen's log, then to
/// its console by the ring, and shuts down.
/// </summary>
internal static class XenKernel
{
    public const string LogText = "a line for the log\n", ConsoleText = "a line for the console\r\n";

    private const uint Address = 0x1000000, HypercallPage = 0x200000, Stack = 0x90000, Arguments = 0x5000;
    private const uint LogAt = 0x400, ConsoleAt = 0x480, End = 0x500;
    private const int ConsoleIo = 18, SchedOp = 29, EventChannelOp = 32, HvmOp = 34;
    private const int ConsolePage = 17, ConsolePort = 18, OutputAt = 1024, OutputProducerAt = 3084;

    /// <param name="reason">SHUTDOWN_*: 0 to 5.</param>
    public static byte[] Elf(int reason)
    {
        var c = new Assembler(32);
        var text = c.CreateLabel();
        c.mov(esp, Stack);
        c.mov(eax, 0x40000002);
        c.cpuid();
        c.mov(ecx, ebx);
        c.mov(eax, HypercallPage);
        c.xor(edx, edx);
        c.wrmsr();

        c.xor(ebx, ebx); // CONSOLEIO_write
        c.mov(ecx, LogText.Length);
        c.mov(edx, Address + LogAt);
        Call(ConsoleIo);

        GetParameter(ConsolePage);
        c.mov(edi, __dword_ptr[Arguments + 8]);
        c.shl(edi, 12);
        c.mov(esi, Address + ConsoleAt);
        c.mov(ecx, ConsoleText.Length);
        c.push(edi);
        c.add(edi, OutputAt);
        c.Label(ref text);
        c.lodsb();
        c.stosb();
        c.dec(ecx);
        c.jne(text);
        c.pop(edi);
        c.mov(__dword_ptr[edi + OutputProducerAt], ConsoleText.Length);
        GetParameter(ConsolePort);
        c.mov(eax, __dword_ptr[Arguments + 8]);
        c.mov(__dword_ptr[Arguments], eax);
        c.mov(ebx, 4); // EVTCHNOP_send
        c.mov(ecx, Arguments);
        Call(EventChannelOp);

        c.mov(__dword_ptr[Arguments], reason);
        c.mov(ebx, 2); // SCHEDOP_shutdown
        c.mov(ecx, Arguments);
        Call(SchedOp);
        c.cli();
        c.hlt();
        using var stream = new MemoryStream();
        c.Assemble(new StreamCodeWriter(stream), Address);
        var code = new byte[End];
        stream.ToArray().CopyTo(code, 0);
        Encoding.ASCII.GetBytes(LogText, code.AsSpan((int)LogAt));
        Encoding.ASCII.GetBytes(ConsoleText, code.AsSpan((int)ConsoleAt));
        return SyntheticKernel.ElfWith(code, Address);

        void Call(int number)
        {
            c.mov(eax, HypercallPage + (uint)(number * 32));
            c.call(eax);
        }

        void GetParameter(int index)
        {
            c.mov(__dword_ptr[Arguments], 0x7FF0); // DOMID_SELF
            c.mov(__dword_ptr[Arguments + 4], index);
            c.mov(ebx, 1); // HVMOP_get_param
            c.mov(ecx, Arguments);
            Call(HvmOp);
        }
    }
}
