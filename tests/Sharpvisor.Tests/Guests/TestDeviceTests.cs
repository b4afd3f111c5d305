using Iced.Intel;
using Sharpvisor.Boot;
using Sharpvisor.Tests.Boot;
using static Iced.Intel.AssemblerRegisters;

namespace Sharpvisor.Tests.Guests;

/// <summary>What low-level test kernels do: multiboot, an interrupt made by pc-testdev, its registers, an exit code by isa-debug-exit.</summary>
[Trait("Category", "Guest")]
public sealed class TestDeviceTests
{
    private const uint Gdt = 0x310000, Idt = 0x300000, Data = 0xE0, Bytes = 0xE8, Interrupts = 0x2000, Memory = 0xFF00_0000;
    private const int Line = 5, Vector = 0x20 + Line;
    private static readonly TimeSpan Limit = TimeSpan.FromMinutes(1);

    [GuestTheory("seabios/bios-256k.bin")]
    [EngineData(false)]
    [EngineData(true)]
    public async Task A_test_kernel_runs_on_the_devices_made_for_it(string engine, bool byFirmware)
    {
        using var limit = new CancellationTokenSource(Limit);
        var builder = Machine.CreateBuilder()
            .WithMemory(32 << 20)
            .WithEngine(GuestEngines.Create(engine))
            .WithKernel(BootSource.FromBytes(MultibootKernel.Elf(Kernel), "kernel"))
            .WithTestDevice()
            .WithDebugExit(0xF4, 4);
        if (byFirmware)
            builder = builder.WithFirmware(GuestCache.Open("seabios/bios-256k.bin"));
        await using var machine = await builder.StartAsync(limit.Token);
        var exit = await machine.WaitForExitAsync(limit.Token);
        Assert.Equal((MachineExitReason.DebugExit, 0x21), (exit.Reason, exit.Code));
        Assert.Equal(
            """
            00000001 00000002 
            12345678 00000056 
            89ab5678 ffffffff 
            cafe1234 000000ca 

            """,
            machine.Serial.Output.ReplaceLineEndings("\n"));
    }

    private static byte[] Kernel(uint address) => PrintingKernel.Assemble(address, (print, c) =>
    {
        const uint beforeHandler = 5 + 2; // mov esp and a short jmp
        Label reload = c.CreateLabel(), start = c.CreateLabel();
        c.jmp(start);

        // The device is told to let go of its line, then the controller that this was the end.
        c.inc(ebp);
        c.push(eax);
        c.push(edx);
        c.mov(dx, (ushort)(Interrupts + Line));
        c.xor(eax, eax);
        c.@out(dx, al);
        c.mov(al, 0x20);
        c.@out(0x20, al);
        c.pop(edx);
        c.pop(eax);
        c.iretd();

        c.Label(ref start);
        Quad(Gdt + 8, 0x0000FFFF, 0x00CF9B00);
        Quad(Gdt + 16, 0x0000FFFF, 0x00CF9300);
        Pointer(Gdt + 32, 23, Gdt);
        c.lgdt(__[Gdt + 32]);
        c.push(8);
        c.call(reload);
        c.Label(ref reload);
        c.add(__dword_ptr[esp], 4 + 1); // behind this and the next one
        c.retf();
        c.mov(eax, 16);
        foreach (var segment in (ReadOnlySpan<AssemblerRegisterSegment>)[ds, es, ss])
            c.mov(segment, ax);
        var handler = address + beforeHandler;
        Quad(Idt + (Vector * 8), (handler & 0xFFFF) | (8 << 16), (handler & 0xFFFF_0000) | 0x8E00);
        Pointer(Gdt + 32, 0x7FF, Idt);
        c.lidt(__[Gdt + 32]);
        foreach (var (port, value) in (ReadOnlySpan<(byte, byte)>)[(0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1), (0x21, 0xFF ^ (1 << Line))])
        {
            c.mov(al, value);
            c.@out(port, al);
        }

        c.xor(ebp, ebp);
        c.sti();
        for (var i = 0; i < 2; i++)
        {
            c.mov(dx, (ushort)(Interrupts + Line));
            c.mov(al, 1);
            c.@out(dx, al);
            c.nop();
            c.mov(edx, ebp);
            print.Hex();
        }

        print.Line();
        c.mov(dx, (ushort)Data);
        c.mov(eax, 0x12345678);
        c.@out(dx, eax);
        c.@in(eax, dx);
        c.push(eax);
        c.xor(eax, eax);
        c.mov(dx, (ushort)Bytes + 1);
        c.@in(al, dx);
        c.push(eax);
        PrintTwo();
        c.mov(dx, (ushort)Bytes + 2);
        c.mov(ax, 0x89AB);
        c.@out(dx, ax);
        c.mov(dx, (ushort)Data);
        c.@in(eax, dx);
        c.push(eax);
        c.mov(dx, 0x2FF0);
        c.@in(eax, dx);
        c.push(eax);
        PrintTwo();
        c.mov(eax, unchecked((int)0xCAFE1234));
        c.mov(__dword_ptr[Memory + 0xFFFC], eax);
        c.mov(ebx, __dword_ptr[Memory + 0xFFFC]);
        c.push(ebx);
        c.movzx(ebx, __byte_ptr[Memory + 0xFFFF]);
        c.push(ebx);
        PrintTwo();

        void PrintTwo()
        {
            c.mov(edx, __dword_ptr[esp + 4]);
            print.Hex();
            c.pop(edx);
            print.Hex();
            c.pop(edx);
            print.Line();
        }

        void Quad(uint at, uint low, uint high)
        {
            c.mov(__dword_ptr[at], low);
            c.mov(__dword_ptr[at + 4], high);
        }

        void Pointer(uint at, ushort limit, uint table)
        {
            c.mov(__word_ptr[at], limit);
            c.mov(__dword_ptr[at + 2], table);
        }
    });
}
