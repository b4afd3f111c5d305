using Sharpvisor.Boot;
using Sharpvisor.Core.Input;
using Sharpvisor.Cpu;
using Sharpvisor.Cpu.State;
using Sharpvisor.Tests.Boot;

namespace Sharpvisor.Tests;

/// <summary>What a machine does around a guest that suspends itself to RAM (ACPI S3); the guest is a step of C#.</summary>
public sealed class SuspendTests
{
    private const ushort Pm1Status = 0x600, Pm1Enable = 0x602, Pm1Control = 0x604, Sleep = 0x2400;
    private const ushort WakeStatus = 0x8000, RtcBit = 0x400, PowerButton = 0x100;
    private const ulong Word = 0x200_0000, WakingVector = 0xE0000 + 64 + 12;
    private static readonly TimeSpan Limit = TimeSpan.FromSeconds(30);

    [Fact]
    public async Task RAM_is_kept_and_the_guest_goes_on_at_its_waking_vector()
    {
        var woken = new TaskCompletionSource<(CpuState State, ushort Status, bool RamIsKept)>();
        await using var machine = await Builder(
            v =>
            {
                if (v.Resets == 1)
                {
                    v.Environment.Memory.TryWrite(Word, 0x1234_5678);
                    v.Environment.Memory.TryWrite(0x100_0000, (byte)0xCC); // a kernel that has changed itself
                    v.Environment.Memory.TryWrite(WakingVector, 0x0009_A123);
                    v.Out(Pm1Control, Sleep, 2);
                    return null;
                }

                v.Environment.Memory.TryRead(Word, out int word);
                v.Environment.Memory.TryRead(0x100_0000, out byte kernel);
                woken.TrySetResult((v.GetState(), ReadWord(v, Pm1Status), word == 0x1234_5678 && kernel == 0xCC));
                return VcpuExit.Halted;
            },
            out var vcpus).StartAsync();
        await SleepsAsync(machine);
        var executed = vcpus[0].InstructionCount;
        Assert.Equal(1, executed);
        machine.WakeUp();
        var (state, status, ramIsKept) = await woken.Task.WaitAsync(Limit);
        Assert.True(ramIsKept);
        Assert.Equal(WakeStatus | PowerButton, status);
        Assert.Equal((0x9A12, 0x9A120UL, 3UL), (state.Segments[1].Selector, state.Segments[1].Base, state.Rip));
        Assert.False(machine.IsSuspended);
        Assert.Throws<InvalidOperationException>(machine.WakeUp);
    }

    [Fact]
    public async Task Without_a_waking_vector_the_kernel_starts_anew()
    {
        var woken = new TaskCompletionSource<(ulong Rip, byte Kernel)>();
        await using var machine = await Builder(
            v =>
            {
                if (v.Resets == 1)
                {
                    v.Environment.Memory.TryWrite(0x100_0000, (byte)0xCC);
                    v.Out(Pm1Control, Sleep, 2);
                    return null;
                }

                v.Environment.Memory.TryRead(0x100_0000, out byte kernel);
                woken.TrySetResult((v.GetState().Rip, kernel));
                return VcpuExit.Halted;
            },
            out _).StartAsync();
        await SleepsAsync(machine);
        machine.PressPowerButton();
        Assert.Equal((machine.BootPlan!.Entry, 0x5A), await woken.Task.WaitAsync(Limit));
    }

    [Fact]
    public async Task The_alarm_that_the_guest_has_set_wakes_it()
    {
        var status = new TaskCompletionSource<ushort>();
        await using var machine = await Builder(
            v =>
            {
                if (v.Resets == 1)
                {
                    foreach (var (index, value) in new[] { (1, 0xFF), (3, 0xFF), (5, 0xFF), (0x0B, 0x22) }) // at each second
                    {
                        v.Out(0x70, (ushort)index);
                        v.Out(0x71, (ushort)value);
                    }

                    v.Out(Pm1Enable, RtcBit, 2);
                    v.Out(Pm1Control, Sleep, 2);
                    return null;
                }

                status.TrySetResult(ReadWord(v, Pm1Status));
                return VcpuExit.Halted;
            },
            out _).StartAsync();
        Assert.Equal(WakeStatus | RtcBit, await status.Task.WaitAsync(Limit));
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task A_key_or_a_button_wakes_it(bool isKey)
    {
        var woken = new TaskCompletionSource();
        await using var machine = await Builder(v => SleepOnce(v, woken), out _).StartAsync();
        await SleepsAsync(machine);
        using (machine.Gate.Enter())
        {
            machine.Keyboard.Device.OnKey(Key.Enter, false); // the one that began the sleep
            machine.Mouse!.OnMove(5, 5, 0, PointerButtons.None);
        }

        await machine.PauseAsync().WaitAsync(Limit);
        Assert.True(machine.IsSuspended);
        await machine.ResumeAsync().WaitAsync(Limit);
        Assert.True(machine.IsSuspended);
        using (machine.Gate.Enter())
        {
            if (isKey)
                machine.Keyboard.Device.OnKey(Key.A, true);
            else
                machine.Mouse!.OnMove(0, 0, 0, PointerButtons.Left);
        }

        await woken.Task.WaitAsync(Limit);
    }

    /// <summary>Firmware that is in shadow RAM finds itself there again, and in CMOS memory that it is to resume.</summary>
    [Fact]
    public async Task Firmware_is_told_to_resume_and_keeps_its_shadow_RAM()
    {
        const uint hostBridgePam = 0x8000_0058;
        var seen = new TaskCompletionSource<(byte Shutdown, byte Shadow)>();
        var engine = new ScriptedEngine(v =>
        {
            if (v.Resets == 1)
            {
                v.Environment.Ports.Write(0xCF8, 4, hostBridgePam);
                v.Environment.Ports.Write(0xCFD, 1, 0x30);
                v.Environment.Memory.TryWrite(0xF0000, (byte)0x77);
                v.Environment.Ports.Write(0xCF8, 4, 0x8000_0B40); // the PIIX4's register block, where firmware puts it
                v.Environment.Ports.Write(0xCFC, 4, 0x601);
                v.Environment.Ports.Write(0xCF8, 4, 0x8000_0B80);
                v.Environment.Ports.Write(0xCFC, 1, 1);
                v.Out(Pm1Control, Sleep, 2);
                return null;
            }

            v.Out(0x70, 0x0F);
            var shutdown = v.In(0x71);
            v.Environment.Memory.TryRead(0xF0000, out byte shadow);
            seen.TrySetResult((shutdown, shadow));
            return VcpuExit.Halted;
        });
        await using var machine = await Machine.CreateBuilder().WithEngine(engine).WithMemory(128 << 20)
            .WithFirmware(BootSource.FromBytes(new byte[0x10000], "bios")).StartAsync();
        await SleepsAsync(machine);
        machine.WakeUp();
        Assert.Equal((0xFE, 0x77), await seen.Task.WaitAsync(Limit));
    }

    [Fact]
    public async Task A_reset_ends_the_sleep_with_a_cold_start()
    {
        var woken = new TaskCompletionSource();
        ushort status = 1;
        await using var machine = await Builder(
            v =>
            {
                if (v.Resets > 1)
                    status = ReadWord(v, Pm1Status);
                return SleepOnce(v, woken);
            },
            out _).StartAsync();
        await SleepsAsync(machine);
        await machine.ResetAsync().WaitAsync(Limit);
        await woken.Task.WaitAsync(Limit);
        Assert.Equal(0, status & WakeStatus);
        Assert.False(machine.IsSuspended);
    }

    /// <summary>Processors, the loop and whoever wakes the machine meet in every order.</summary>
    [Fact]
    public async Task Four_processors_sleep_and_wake_a_hundred_times()
    {
        await using var machine = await Builder(
            v =>
            {
                if (v.Index == 0)
                    v.Out(Pm1Control, Sleep, 2);
                return null;
            },
            out var vcpus).WithProcessors(4).StartAsync();
        using var limit = new CancellationTokenSource(Limit);
        for (var i = 1; i <= 100; i++)
        {
            while (!machine.IsSuspended || vcpus[0].Resets != i)
                await Task.Delay(1, limit.Token);
            machine.WakeUp();
            while (vcpus[0].Resets == i)
                await Task.Delay(1, limit.Token);
        }

        await machine.StopAsync().WaitAsync(Limit);
        Assert.DoesNotContain(vcpus, v => v.TouchedWhileRunning);
    }

    [Fact]
    public async Task A_machine_that_sleeps_can_be_ended()
    {
        await using var machine = await Builder(v => SleepOnce(v, new TaskCompletionSource()), out _).WithProcessors(4).StartAsync();
        await SleepsAsync(machine);
        await machine.StopAsync().WaitAsync(Limit);
    }

    private static VcpuExit? SleepOnce(ScriptedVcpu v, TaskCompletionSource woken)
    {
        if (v.Resets == 1)
        {
            v.Out(Pm1Control, Sleep, 2);
            return null;
        }

        woken.TrySetResult();
        return VcpuExit.Halted;
    }

    private static async Task SleepsAsync(Machine machine)
    {
        using var limit = new CancellationTokenSource(Limit);
        while (!machine.IsSuspended)
            await Task.Delay(1, limit.Token);
    }

    private static ushort ReadWord(ScriptedVcpu v, ushort port) => (ushort)v.Environment.Ports.Read(port, 2);

    private static MachineBuilder Builder(Func<ScriptedVcpu, VcpuExit?> step, out List<ScriptedVcpu> vcpus)
    {
        var engine = new ScriptedEngine(step);
        vcpus = engine.Vcpus;
        return Machine.CreateBuilder().WithEngine(engine).WithMemory(128 << 20)
            .WithKernel(BootSource.FromBytes(SyntheticKernel.BzImage(), "kernel"));
    }
}
