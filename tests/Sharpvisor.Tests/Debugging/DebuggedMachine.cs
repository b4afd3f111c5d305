using System.Threading.Channels;
using Iced.Intel;
using Sharpvisor.Boot;
using Sharpvisor.Cpu;
using Sharpvisor.Cpu.State;
using Sharpvisor.Debugging;

namespace Sharpvisor.Tests.Debugging;

/// <summary>
/// A machine that starts paused, with processors in flat 32-bit protected mode without tables: each at its own code, which
/// ends with HLT. Its firmware is one HLT at the reset vector.
/// </summary>
internal sealed class DebuggedMachine : IAsyncDisposable
{
    public const uint Code = 0x10000, Data = 0x80000;
    public const ulong ResetVector = 0xFFFF_FFF0;

    public static readonly TimeSpan Limit = TimeSpan.FromSeconds(60);

    private readonly Channel<DebugStop> _stops = Channel.CreateUnbounded<DebugStop>();

    private DebuggedMachine(Machine machine)
    {
        Machine = machine;
        machine.Debugger.Stopped += s => _stops.Writer.TryWrite(s);
        machine.Debugger.Resumed += () => Resumed++;
    }

    public Machine Machine { get; }

    public MachineDebugger Debugger => Machine.Debugger;

    /// <summary>How often the machine went on.</summary>
    public int Resumed { get; private set; }

    /// <summary>Stops that nobody has waited for yet.</summary>
    public int StopsLeft => _stops.Reader.Count;

    public static uint CodeOf(int processor) => Code + ((uint)processor << 12);

    public static async Task<DebuggedMachine> StartAsync(string engine, params Action<Assembler>[] code)
    {
        var firmware = new byte[0x10000];
        Array.Fill(firmware, (byte)0xF4);
        var machine = new DebuggedMachine(Machine.CreateBuilder().WithEngine(CpuEngines.Create(engine)).WithProcessors(code.Length).WithMemory(64 << 20)
            .WithFirmware(BootSource.FromBytes(firmware, "bios")).WithStartPaused().Build());
        await machine.Machine.StartAsync().WaitAsync(Limit);
        for (var i = 0; i < code.Length; i++)
            machine.Place(i, code[i]);
        return machine;
    }

    /// <summary>Writes the code of a processor, and puts the processor there.</summary>
    public void Place(int processor, Action<Assembler> code)
    {
        var assembler = new Assembler(32);
        code(assembler);
        assembler.hlt();
        using var stream = new MemoryStream();
        assembler.Assemble(new StreamCodeWriter(stream), CodeOf(processor));
        Assert.Equal((int)stream.Length, Debugger.WritePhysical(CodeOf(processor), stream.ToArray()));
        var state = Debugger.GetState(processor);
        state.Cr0 = 0x11;
        state.Activity = ActivityState.Active;
        for (var i = 0; i < 6; i++)
            state.Segments[i] = new SegmentRegister { Limit = uint.MaxValue, Attributes = 0xC093 };
        state.Segments[1].Attributes = 0xC09B;
        state.Rip = CodeOf(processor);
        state.Gpr[4] = Data - ((uint)processor << 8);
        Debugger.SetState(processor, state);
    }

    public uint Read(uint address)
    {
        Span<byte> bytes = stackalloc byte[4];
        Assert.Equal(4, Debugger.ReadPhysical(address, bytes));
        return BitConverter.ToUInt32(bytes);
    }

    public Task ContinueAsync(params (int Processor, Resumption How)[] resumptions) =>
        Debugger.ContinueAsync(resumptions.ToDictionary(r => r.Processor, r => r.How)).WaitAsync(Limit);

    public async Task<DebugStop> NextStopAsync()
    {
        var stop = await _stops.Reader.ReadAsync().AsTask().WaitAsync(Limit);
        Assert.True(Debugger.IsStopped);
        Assert.Equal(stop, Debugger.LastStop);
        return stop;
    }

    public async Task<DebugStop> ContinueToStopAsync(params (int Processor, Resumption How)[] resumptions)
    {
        await ContinueAsync(resumptions);
        return await NextStopAsync();
    }

    /// <summary>Returns when the processor has halted. The machine runs.</summary>
    public async Task HaltedAsync(int processor)
    {
        while (true)
        {
            await Debugger.StopAsync().WaitAsync(Limit);
            Assert.Equal(DebugStopKind.Paused, (await NextStopAsync()).Kind);
            if (Debugger.GetState(processor).Activity == ActivityState.Halted)
                return;
            await ContinueAsync();
            await Task.Delay(1);
        }
    }

    public ValueTask DisposeAsync() => Machine.DisposeAsync();
}
