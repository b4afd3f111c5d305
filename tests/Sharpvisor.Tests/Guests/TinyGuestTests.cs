using Sharpvisor.Boot;
using Sharpvisor.Tests.Boot;

namespace Sharpvisor.Tests.Guests;

/// <summary>Guests of a few instructions, on the real engine: how they end, and what the worst of them cannot do.</summary>
public sealed class TinyGuestTests
{
    private const uint Base = 0x1000000, Code = Base + 0x40;
    private static readonly TimeSpan Limit = TimeSpan.FromSeconds(30);

    [Fact]
    public async Task Debug_exit() => Assert.Equal(0x21, (await Run([0xB0, 0x10, 0xE6, 0xF4, 0xF4])).Code); // mov al,10h; out 0f4h,al; hlt

    [Fact]
    public async Task Power_off()
    {
        // mov dx,604h; mov ax,2000h; out dx,ax; hlt
        var exit = await Run([0x66, 0xBA, 0x04, 0x06, 0x66, 0xB8, 0x00, 0x20, 0x66, 0xEF, 0xF4]);
        Assert.Equal((MachineExitReason.PowerOff, 0), (exit.Reason, exit.Code));
    }

    [Fact]
    public async Task Output_on_COM1()
    {
        // mov dx,3f8h; mov al,'H'; out dx,al; mov al,'i'; out dx,al; cli; hlt
        await using var machine = await Build([0x66, 0xBA, 0xF8, 0x03, 0xB0, (byte)'H', 0xEE, 0xB0, (byte)'i', 0xEE, 0xFA, 0xF4]).StartAsync();
        Assert.Equal("Hi", await machine.Serial.ExpectAsync("Hi").WaitAsync(Limit));
    }

    [Theory]
    [InlineData("ud2 without an IDT", new byte[] { 0x0F, 0x0B })]
    [InlineData("a jump into the void", new byte[] { 0xB8, 0x00, 0x00, 0x00, 0xF0, 0xFF, 0xE0 })] // mov eax,0f0000000h; jmp eax
    [InlineData("page tables over the IOAPIC", new byte[] { 0xB8, 0x00, 0x00, 0xC0, 0xFE, 0x0F, 0x22, 0xD8, 0x0F, 0x20, 0xC0, 0x0D, 0x00, 0x00, 0x00, 0x80, 0x0F, 0x22, 0xC0, 0xF4 })] // mov eax,0fec00000h; mov cr3,eax; mov eax,cr0; or eax,80000000h; mov cr0,eax; hlt
    [InlineData("a stack over the HPET", new byte[] { 0xBC, 0x00, 0x01, 0xD0, 0xFE, 0x60, 0x0F, 0x0B })] // mov esp,0fed00100h; pusha; ud2
    public async Task Triple_faults(string what, byte[] code)
    {
        var exit = await Run(code);
        Assert.True(exit.Reason == MachineExitReason.TripleFault, $"{what}: {exit}");
        Assert.Equal(3, exit.Code);
    }

    [Fact]
    public async Task A_write_to_every_port_and_a_read_from_it()
    {
        // xor edx,edx; xor eax,eax; L: out dx,al; in al,dx; mov al,0; inc dx; jnz L; then power off
        var exit = await Run(
            [0x31, 0xD2, 0x31, 0xC0, 0xEE, 0xEC, 0xB0, 0x00, 0x66, 0x42, 0x75, 0xF8, 0x66, 0xBA, 0x04, 0x06, 0x66, 0xB8, 0x00, 0x20, 0x66, 0xEF, 0xF4],
            debugExit: false);
        Assert.Equal(MachineExitReason.PowerOff, exit.Reason);
    }

    [Fact]
    public async Task A_guest_that_loops_in_a_fault_can_be_paused_and_stopped()
    {
        const uint idtRegister = Base + 0x78, idt = Base + 0x80, handler = Code + 14;
        byte[] code =
        [
            0xBC, .. BitConverter.GetBytes(Base + 0x2000), // mov esp,...
            0x0F, 0x01, 0x1D, .. BitConverter.GetBytes(idtRegister), // lidt
            0x0F, 0x0B, // ud2
            0xCF, // handler: iretd, to the ud2 again
        ];
        var image = SyntheticKernel.Elf(is64: false, note: Code);
        code.CopyTo(image, 0x240);
        SyntheticKernel.U16(image, 0x278, (8 * 8) - 1);
        SyntheticKernel.U32(image, 0x27A, idt);
        SyntheticKernel.U32(image, 0x280 + (6 * 8), (handler & 0xFFFF) | (0x10 << 16)); // #UD: an interrupt gate
        SyntheticKernel.U32(image, 0x280 + (6 * 8) + 4, (handler & 0xFFFF0000) | 0x8E00);
        await using var machine = await Start(image).StartAsync();
        for (var (count, end) = (0L, DateTime.UtcNow + Limit); count <= 1000;)
        {
            await Task.Delay(50); // the first instructions take their time on a busy host
            await machine.PauseAsync().WaitAsync(Limit);
            count = machine.Processors[0].InstructionCount;
            Assert.True(count > 1000 || DateTime.UtcNow < end, $"{count} instructions: the guest does not loop");
            await machine.ResumeAsync().WaitAsync(Limit);
        }

        Assert.Equal(MachineExitReason.Stopped, (await machine.StopAsync().WaitAsync(Limit)).Reason);
    }

    private static async Task<MachineExit> Run(byte[] code, bool debugExit = true)
    {
        await using var machine = await Build(code, debugExit).StartAsync();
        return await machine.WaitForExitAsync().WaitAsync(Limit);
    }

    private static MachineBuilder Build(byte[] code, bool debugExit = false)
    {
        var image = SyntheticKernel.Elf(is64: false, note: Code);
        code.CopyTo(image, 0x240);
        var builder = Start(image);
        return debugExit ? builder.WithDebugExit(0xF4, 4) : builder;
    }

    private static MachineBuilder Start(byte[] image) => Machine.CreateBuilder()
        .WithMemory(64 << 20)
        .WithKernel(BootSource.FromBytes(image, "tiny"))
        .WithoutReboot();
}
