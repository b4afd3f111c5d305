using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;
using static Sharpvisor.Cpu.Tests.Smp.SmpMachine;

namespace Sharpvisor.Cpu.Tests.Smp;

/// <summary>
/// What orders a processor's store before its next load, orders it towards the threads of devices, too, however many
/// processors there are: a driver says what it waits for, then looks whether it is there already, and so does the device.
/// </summary>
public sealed class DeviceOrderTests
{
    private const uint Processor = Data, Device = Data + 0x1000, Seen = Data + 0x10000;

    [Theory]
    [InlineData("lock add")]
    [InlineData("lock or")]
    [InlineData("xchg")]
    [InlineData("mfence")]
    public unsafe void One_of_two_sees_the_other(string fence)
    {
        var rounds = Iterations.Of(20_000);
        using var machine = new SmpMachine(1);
        machine.Load(0, a =>
        {
            var loop = a.CreateLabel();
            var wait = a.CreateLabel();
            a.mov(ebx, 1);
            a.Label(ref loop);
            if (fence == "xchg")
            {
                a.mov(ecx, ebx);
                a.xchg(__dword_ptr[Processor], ecx);
            }
            else
            {
                a.mov(__dword_ptr[Processor], ebx);
                switch (fence)
                {
                    case "lock add":
                        a.@lock.add(__dword_ptr[rsp - 4], 0);
                        break;
                    case "lock or":
                        a.@lock.or(__byte_ptr[rsp - 4], 0);
                        break;
                    default:
                        a.mfence();
                        break;
                }
            }

            a.mov(eax, __dword_ptr[Device]);
            a.mov(__dword_ptr[(rbx * 4) + Seen], eax);
            a.Label(ref wait);
            a.cmp(__dword_ptr[Device], ebx);
            a.jb(wait);
            a.inc(ebx);
            a.cmp(ebx, rounds);
            a.jbe(loop);
            a.xor(eax, eax);
            Done(a);
        });

        var processor = (uint*)machine.Memory.TryGetPointer(Processor);
        var device = (uint*)machine.Memory.TryGetPointer(Device);
        var seen = new uint[rounds + 1];
        var thread = new Thread(() =>
        {
            for (var i = 1u; i <= rounds; i++)
            {
                Volatile.Write(ref *device, i);
                Interlocked.MemoryBarrier();
                seen[i] = Volatile.Read(ref *processor);
                while (Volatile.Read(ref *processor) < i)
                    Thread.SpinWait(1);
            }
        })
        { IsBackground = true };
        thread.Start();
        machine.Run();
        thread.Join();
        var both = 0;
        for (var i = 1u; i <= rounds; i++)
        {
            if (seen[i] < i && machine.Read(Seen + (i * 4)) < i)
                both++;
        }

        Assert.Equal(0, both);
    }
}
