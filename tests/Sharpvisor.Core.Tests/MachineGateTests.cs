namespace Sharpvisor.Core.Tests;

public sealed class MachineGateTests
{
    private readonly MachineGate _gate = new();

    [Fact]
    public void Work_is_done_without_the_gate_when_its_thread_leaves_it_for_good()
    {
        var work = new Work(_gate);
        using (_gate.Enter())
        {
            using (_gate.Enter())
                _gate.AfterLeave(work, "a");
            _gate.AfterLeave(work, "b");
            Assert.Empty(work.Log);
        }

        Assert.Equal(["perform a", "done a under the gate", "perform b", "done b under the gate"], work.Log);
        Assert.False(_gate.IsHeld);
        using (_gate.Enter())
        {
        }

        Assert.Equal(4, work.Log.Count);
    }

    [Fact]
    public void Work_that_somebody_else_goes_on_with_is_not_finished_here()
    {
        var work = new Work(_gate) { IsDone = false };
        using (_gate.Enter())
            _gate.AfterLeave(work, "a");
        Assert.Equal(["perform a"], work.Log);
    }

    [Fact]
    public void Work_leads_to_more_work_without_end_of_the_stack()
    {
        var work = new Work(_gate) { Again = 100_000 };
        using (_gate.Enter())
            _gate.AfterLeave(work, "a");
        Assert.Equal(2 * 100_001, work.Log.Count);
    }

    [Fact]
    public void Others_enter_while_it_is_done_and_each_does_its_own()
    {
        var work = new Work(_gate) { During = true };
        using (_gate.Enter())
            _gate.AfterLeave(work, "a");
        Assert.Equal(["perform a", "perform of another thread", "done of another thread under the gate", "done a under the gate"], work.Log);
    }

    [Fact]
    public async Task An_exception_leaves_the_gate()
    {
        var work = new Work(_gate) { Throws = true };
        Assert.Throws<InvalidOperationException>(() =>
        {
            using (_gate.Enter())
                _gate.AfterLeave(work, "a");
        });
        Assert.False(_gate.IsHeld);
        await Task.Run(() =>
        {
            using (_gate.Enter())
                Assert.True(_gate.IsHeld);
        }).WaitAsync(TimeSpan.FromSeconds(30));
        Assert.Throws<InvalidOperationException>(() => _gate.AfterLeave(work, "b")); // it is not held
    }

    private sealed class Work(MachineGate gate) : IGateWork
    {
        public List<string> Log { get; } = [];

        public bool IsDone { get; init; } = true;

        public int Again { get; set; }

        public bool Throws { get; init; }

        public bool During { get; set; }

        public bool TryPerform(object item)
        {
            Assert.False(gate.IsHeld);
            Log.Add($"perform {item}");
            if (Throws)
                throw new InvalidOperationException("a mistake");
            if (!During)
                return IsDone;
            During = false;
            var other = new Thread(() =>
            {
                using (gate.Enter())
                    gate.AfterLeave(this, "of another thread");
            });
            other.Start();
            other.Join();
            return IsDone;
        }

        public void OnPerformed(object item)
        {
            Log.Add($"done {item}{(gate.IsHeld ? " under the gate" : "")}");
            if (Again-- > 0)
                gate.AfterLeave(this, item);
        }
    }
}
