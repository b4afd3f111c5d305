using Sharpvisor.Boot;
using Sharpvisor.Core.Buses;
using Sharpvisor.Core.Guests;
using Sharpvisor.Cpu;
using Sharpvisor.Tests.Boot;

namespace Sharpvisor.Tests;

public sealed class MachineTests
{
    private const ushort Pm1Control = 0x604;
    private static readonly TimeSpan Limit = TimeSpan.FromSeconds(20);
    private readonly ListLogger _log = new();

    [Fact]
    public async Task A_guest_that_powers_off_ends_the_machine_with_0()
    {
        await using var machine = await Builder(v =>
        {
            v.Environment.Ports.Write(Pm1Control, 2, 1 << 13); // SLP_EN, SLP_TYP 0 is S5
            return VcpuExit.Halted;
        }).StartAsync();
        var exit = await machine.WaitForExitAsync().WaitAsync(Limit);
        Assert.Equal((MachineExitReason.PowerOff, 0), (exit.Reason, exit.Code));
    }

    [Fact]
    public async Task Debug_exit_gives_v_shifted_plus_1()
    {
        await using var machine = await Builder(v =>
        {
            v.Out(0xF4, 0x10);
            return VcpuExit.Halted;
        }).WithDebugExit(0xF4, 4).StartAsync();
        Assert.Equal(0x21, (await machine.WaitForExitAsync().WaitAsync(Limit)).Code);
    }

    [Fact]
    public async Task The_first_processor_starts_in_the_kernel_and_the_others_wait()
    {
        var engine = new ScriptedEngine(_ => VcpuExit.Halted);
        await using var machine = Machine.CreateBuilder().WithEngine(engine).WithProcessors(3).WithMemory(128 << 20)
            .WithKernel(BootSource.FromBytes(SyntheticKernel.BzImage(), "kernel")).Build();
        Assert.Equal(machine.BootPlan!.Entry, engine.Vcpus[0].GetState().Rip);
        Assert.Equal(Cpu.State.ActivityState.WaitForSipi, engine.Vcpus[1].GetState().Activity);
        Assert.True(machine.Memory.TryRead(0xE0000, out ulong rsdp));
        Assert.Equal("RSD PTR "u8.ToArray(), BitConverter.GetBytes(rsdp));
    }

    [Theory]
    [InlineData(0xCF9, 0x06)]
    [InlineData(0x92, 0x01)]
    [InlineData(0x64, 0xFE)]
    public async Task A_reset_loads_the_kernel_again_and_starts_it(int port, byte value)
    {
        var seen = new TaskCompletionSource<byte>();
        var builder = Builder(v =>
        {
            if (v.Resets == 1)
            {
                v.Environment.Memory.TryWrite(0x1000000, (byte)0xCC); // the guest overwrites its kernel
                v.Out((ushort)port, value);
                return VcpuExit.Halted;
            }

            v.Environment.Memory.TryRead(0x1000000, out byte first);
            seen.TrySetResult(first);
            return VcpuExit.Halted;
        });
        await using var machine = await builder.StartAsync();
        Assert.Equal(0x5A, await seen.Task.WaitAsync(Limit));
    }

    [Fact]
    public async Task A_kernel_that_has_become_shorter_by_the_reset_is_the_users_mistake()
    {
        var path = Path.GetTempFileName();
        try
        {
            File.WriteAllBytes(path, SyntheticKernel.BzImage());
            var engine = new ScriptedEngine(v =>
            {
                File.WriteAllBytes(path, []);
                v.Out(0x92, 1);
                return VcpuExit.Halted;
            });
            await using var machine = await Machine.CreateBuilder().WithEngine(engine).WithMemory(128 << 20).WithKernel(path).WithLogger(_log).StartAsync();
            var exit = await machine.WaitForExitAsync().WaitAsync(Limit);
            Assert.Equal((MachineExitReason.Configuration, 2), (exit.Reason, exit.Code));
            Assert.StartsWith(path, exit.Message, StringComparison.Ordinal);
            Assert.DoesNotContain(_log.Lines, l => l.Contains("please report", StringComparison.Ordinal));
        }
        finally
        {
            File.Delete(path);
        }
    }

    [Fact]
    public async Task Without_reboot_a_reset_ends_the_machine_with_0()
    {
        await using var machine = await Builder(v =>
        {
            v.Out(0xCF9, 6);
            return VcpuExit.Halted;
        }).WithoutReboot().StartAsync();
        var exit = await machine.WaitForExitAsync().WaitAsync(Limit);
        Assert.Equal((MachineExitReason.Reset, 0), (exit.Reason, exit.Code));
    }

    /// <summary>What asks for a reset may ask in several ways, one after the other, and expects none to return.</summary>
    [Fact]
    public async Task Nothing_is_executed_between_a_request_and_the_reset()
    {
        var executed = 0;
        var started = new TaskCompletionSource();
        var engine = new ScriptedEngine(v =>
        {
            if (v.Resets == 1 && v.Index == 0)
            {
                v.Out(0xCF9, 6);
                v.Out(0x64, 0xFE);
                v.Out(0x92, 1);
                executed++;
                return null;
            }

            if (v.InstructionCount > 1000)
                started.TrySetResult();
            return null;
        });
        await using var machine = await Builder(engine).WithProcessors(3).StartAsync();
        await started.Task.WaitAsync(Limit);
        await machine.PauseAsync().WaitAsync(Limit);
        Assert.Equal(1, executed);
        Assert.All(engine.Vcpus, v => Assert.Equal(2, v.Resets));
    }

    [Fact]
    public async Task Without_shutdown_the_machine_stays_paused()
    {
        var engine = new ScriptedEngine(v =>
        {
            if (v.InstructionCount == 1)
                v.Out(0x604, 0x2000, 2);
            return null;
        });
        await using var machine = await Builder(engine).WithoutShutdown().StartAsync();
        while (!machine.IsPaused)
            await Task.Delay(1);
        Assert.Contains("the guest powered off (ACPI S5); the machine stays paused", _log.Lines);
        Assert.False(machine.Exit.IsCompleted);
        await Assert.ThrowsAsync<InvalidOperationException>(() => machine.ResumeAsync());
        Assert.True(machine.IsPaused);
        await machine.ResetAsync().WaitAsync(Limit);
        await machine.ResumeAsync().WaitAsync(Limit);
        Assert.False(machine.IsPaused);
        await machine.StopAsync().WaitAsync(Limit);
    }

    [Fact]
    public async Task Boot_once_is_for_the_first_start()
    {
        List<string> orders = [];
        var done = new TaskCompletionSource();
        await using var machine = await Builder(v =>
        {
            orders.Add($"{Cmos(v, 0x3D):x2} {Cmos(v, 0x38):x2}");
            if (v.Resets == 3)
                done.TrySetResult();
            else
                v.Out(0xCF9, 6);
            return VcpuExit.Halted;
        }).WithBoot(new BootOptions { Order = "cdn", Once = "d" }).StartAsync();
        await done.Task.WaitAsync(Limit);
        Assert.Equal(["03 01", "32 41", "32 41"], orders.Take(3));

        static byte Cmos(ScriptedVcpu v, byte index)
        {
            v.Out(0x70, index);
            return v.In(0x71);
        }
    }

    [Theory]
    [InlineData(0xE000_0000UL - 4096, null, 0xDFFF_F000UL)]
    [InlineData(0xE000_0000UL, null, 0xC000_0000UL)]
    [InlineData(2UL << 30, 1UL << 30, 1UL << 30)]
    [InlineData(2UL << 30, 3UL << 30, 2UL << 30)]
    [InlineData(6UL << 30, 1UL << 32, 0xC000_0000UL)]
    public async Task Memory_is_split_as_QEMU_does(ulong size, ulong? limit, ulong below)
    {
        var builder = Builder(_ => VcpuExit.Halted).WithMemory(size);
        await using var machine = (limit is { } bytes ? builder.WithMemoryBelow4G(bytes) : builder).Build();
        Assert.Equal((below, size - below), (machine.Memory.Below4G, machine.Memory.Above4G));
    }

    [Fact]
    public async Task A_triple_fault_says_why_and_resets()
    {
        var again = new TaskCompletionSource();
        await using var machine = await Builder(v =>
        {
            if (v.Resets == 1)
                return VcpuExit.Shutdown;
            again.TrySetResult();
            return VcpuExit.Halted;
        }).StartAsync();
        await again.Task.WaitAsync(Limit);
        Assert.Contains("triple fault on processor 0\nthe exceptions that led here", _log.Lines);
    }

    [Fact]
    public async Task Without_reboot_a_triple_fault_ends_the_machine_with_3()
    {
        await using var machine = await Builder(_ => VcpuExit.Shutdown).WithoutReboot().StartAsync();
        var exit = await machine.WaitForExitAsync().WaitAsync(Limit);
        Assert.Equal((MachineExitReason.TripleFault, 3), (exit.Reason, exit.Code));
    }

    [Fact]
    public async Task An_error_of_ours_in_a_device_ends_the_machine_with_70_and_a_name()
    {
        var builder = Builder(v =>
        {
            v.Out(0x300, 1);
            return VcpuExit.Halted;
        });
        await using var machine = builder.Build();
        machine.Ports.Map(0x300, 1, new BrokenDevice(), "broken");
        await machine.StartAsync();
        var exit = await machine.WaitForExitAsync().WaitAsync(Limit);
        Assert.Equal((MachineExitReason.InternalError, 70), (exit.Reason, exit.Code));
        Assert.Equal("internal error in vCPU 0: it broke", exit.Message);
        Assert.Contains("internal error in vCPU 0; please report it", _log.Lines);
    }

    [Fact]
    public async Task A_paused_machine_executes_nothing()
    {
        var engine = new ScriptedEngine(_ => null);
        await using var machine = await Builder(engine).StartAsync();
        await machine.PauseAsync().WaitAsync(Limit);
        var before = engine.Vcpus[0].InstructionCount;
        await Task.Delay(20);
        Assert.Equal(before, engine.Vcpus[0].InstructionCount);
        await machine.ResumeAsync().WaitAsync(Limit);
        while (engine.Vcpus[0].InstructionCount == before)
            await Task.Delay(1);
    }

    [Fact]
    public async Task Eight_processors_are_stopped_and_reset_two_hundred_times()
    {
        var engine = new ScriptedEngine(v => v.InstructionCount % 64 == 0 ? VcpuExit.Budget : null);
        await using var machine = await Builder(engine).WithProcessors(8).StartAsync();
        for (var i = 0; i < 200; i++)
            await machine.ResetAsync().WaitAsync(Limit);
        await machine.StopAsync().WaitAsync(Limit);
        Assert.All(engine.Vcpus, v => Assert.Equal(201, v.Resets));
        Assert.DoesNotContain(engine.Vcpus, v => v.TouchedWhileRunning);
    }

    [Fact]
    public async Task A_program_talks_to_the_guest_over_COM1()
    {
        var typed = "";
        await using var machine = await Builder(v =>
        {
            if (v.InstructionCount == 1)
            {
                foreach (var c in "login: ")
                    v.Out(0x3F8, (byte)c);
            }
            else if ((v.In(0x3FD) & 1) != 0)
            {
                var c = v.In(0x3F8);
                typed += (char)c;
                v.Out(0x3F8, c);
            }

            return null;
        }).StartAsync();
        await machine.Serial.ExpectAsync("login:").WaitAsync(Limit);
        await machine.Serial.WriteLineAsync("root");
        await machine.Serial.ExpectAsync("root\r").WaitAsync(Limit);
        await machine.StopAsync();
        Assert.Equal("root\r", typed);
    }

    [Fact]
    public async Task Whoever_waits_for_text_is_told_that_the_machine_has_ended()
    {
        await using var machine = await Builder(_ => VcpuExit.Shutdown).WithoutReboot().StartAsync();
        var error = await Assert.ThrowsAsync<EndOfStreamException>(() => machine.Serial.ExpectAsync("login:").WaitAsync(Limit));
        Assert.StartsWith("triple fault on processor 0 before \"login:\" appeared", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Asking_a_machine_that_has_ended_fails_instead_of_hanging()
    {
        await using var machine = await Builder(_ => VcpuExit.Halted).StartAsync();
        await machine.StopAsync().WaitAsync(Limit);
        await Assert.ThrowsAsync<InvalidOperationException>(() => machine.ResetAsync().WaitAsync(Limit));
    }

    [Fact]
    public async Task A_machine_may_be_disposed_at_any_time()
    {
        await using (Builder(_ => null).Build())
        {
        }

        var machine = await Builder(_ => null).StartAsync();
        await machine.PauseAsync();
        await machine.DisposeAsync().AsTask().WaitAsync(Limit);
        await machine.DisposeAsync();
        Assert.Equal(MachineExitReason.Stopped, (await machine.Exit).Reason);
    }

    /// <summary>The power button, a viewer's key: they reach devices, and these their processors, from other threads.</summary>
    [Fact]
    public async Task No_processor_goes_while_a_device_may_be_telling_it_something()
    {
        var engine = new ScriptedEngine(_ => VcpuExit.Halted);
        var machine = await Machine.CreateBuilder().WithEngine(engine).WithProcessors(2).WithMemory(64 << 20)
            .WithKernel(BootSource.FromBytes(SyntheticKernel.BzImage(), "kernel")).StartAsync();
        await machine.DisposeAsync();
        Assert.All(engine.Vcpus, v => Assert.False(v.DisposedWithoutGate));
        machine.PressPowerButton(); // too late, and harmless
    }

    /// <summary>A program that is told what was wrong may try again with the same disk and files.</summary>
    [Fact]
    public async Task A_machine_that_can_not_be_made_leaves_nothing_open()
    {
        var path = Path.GetTempFileName();
        try
        {
            File.WriteAllBytes(path, new byte[1 << 20]);
            Assert.Throws<ConfigurationException>(() => Builder(_ => null).WithDisk(path).WithProcessors(0).Build());
            Assert.Throws<ConfigurationException>(() => Builder(_ => null).WithDisk(path).WithDebugExit(0x3F8).Build());
            await Assert.ThrowsAsync<ConfigurationException>(() => Builder(_ => null).WithVirtioDisk(path).WithCpu("none").StartAsync());
            await using var machine = Builder(_ => null).WithDisk(path).Build();
        }
        finally
        {
            File.Delete(path);
        }
    }

    [Fact]
    public void Mistakes_are_refused()
    {
        Assert.Equal("0 processors: give 1 to 64", Assert.Throws<ConfigurationException>(() => Builder(_ => null).WithProcessors(0).Build()).Message);
        Assert.Equal(
            "io ranges overlap: isa-debug-exit at 0x3f8-0x3f9 and com1 at 0x3f8-0x3ff; give another iobase",
            Assert.Throws<ConfigurationException>(() => Builder(_ => null).WithDebugExit(0x3F8).Build()).Message);
        Assert.Equal(
            "nothing to boot: give a kernel with -kernel, or firmware with -bios",
            Assert.Throws<ConfigurationException>(() => Machine.CreateBuilder().WithEngine(new ScriptedEngine(_ => null)).Build()).Message);
    }

    private MachineBuilder Builder(Func<ScriptedVcpu, VcpuExit?> step) => Builder(new ScriptedEngine(step));

    private MachineBuilder Builder(ScriptedEngine engine) => Machine.CreateBuilder()
        .WithEngine(engine)
        .WithMemory(128 << 20)
        .WithLogger(_log)
        .WithKernel(BootSource.FromBytes(SyntheticKernel.BzImage(), "kernel"));

    private sealed class BrokenDevice : IBusDevice
    {
        public ulong Read(uint offset, int size) => throw new InvalidOperationException("it broke");

        public void Write(uint offset, int size, ulong value) => throw new InvalidOperationException("it broke");
    }
}
