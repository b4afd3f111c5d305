using Sharpvisor.Debugging;
using Sharpvisor.Debugging.Stacks;
using Sharpvisor.Debugging.Symbols;

namespace Sharpvisor.Tests.Debugging.Stacks;

/// <summary>Stacks made by hand: each way of unwinding on its own.</summary>
public sealed class StackWalkerTests
{
    private const ulong Text = MadeUpKernel.Text, Stack = MadeUpKernel.Stack;
    private const int Sp = 5, Bp = 4, BpIndirect = 8, SpIndirect = 9, PreviousSp = 1;

    private static readonly (ulong, string)[] Functions =
        [(0x1000, "leaf"), (0x2000, "middle"), (0x3000, "asm_interrupt"), (0x4000, "outer"), (0x5000, "entry"), (0x6000, "switch_stack"), (0x7000, "start")];

    /// <summary>Up to 6.3 the types are 0 call, 1 registers, 2 IRET frame, and bit 10 the end; since 6.4 they count from 2 on, and 1 is the end.</summary>
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void ORC_leads_through_calls_interrupts_and_stacks_to_user_mode(bool isNew)
    {
        var kernel = Kernel(isNew);
        ref var state = ref kernel.State;
        state.Rip = Text + 0x1004;
        state.Gpr[4] = Stack + 0x1000;
        state.Gpr[5] = 0x1234; // the leaf leaves RBP alone
        // leaf was called by middle, whose frame is found by RBP, which it has saved.
        kernel.Push(0x1000, Text + 0x2010);
        state.Gpr[5] = Stack + 0x1040;
        kernel.Push(0x1040, 0xB0B0);
        kernel.Push(0x1048, Text + 0x3008);
        // asm_interrupt has pt_regs at its stack pointer: of outer, on another stack.
        kernel.Push(0x1050 + 32, Stack + 0x3080);
        kernel.Push(0x1050 + 128, Text + 0x4000); // its very first instruction: not RIP - 1
        kernel.Push(0x1050 + 136, 0x10);
        kernel.Push(0x1050 + 152, Stack + 0x3000);
        // outer was called by switch_stack, which finds its caller's stack by [RBP - 8].
        kernel.Push(0x3000, Text + 0x6010);
        kernel.Push(0x3078, Stack + 0x5000);
        kernel.Push(0x4FF8, Text + 0x5020);
        // entry has an IRET frame of a process.
        kernel.Push(0x5000, 0x401000);
        kernel.Push(0x5008, 0x33);
        kernel.Push(0x5018, 0x7FFF_0000_1000);

        var frames = Walk(kernel);
        Assert.Equal(
            [
                new CallFrame(Text + 0x1004, Stack + 0x1000, FrameKind.Exact),
                new CallFrame(Text + 0x2010, Stack + 0x1000, FrameKind.Exact),
                new CallFrame(Text + 0x3008, Stack + 0x1048, FrameKind.Exact),
                new CallFrame(Text + 0x4000, Stack + 0x1050 + 128, FrameKind.Exact, IsInterrupted: true),
                new CallFrame(Text + 0x6010, Stack + 0x3000, FrameKind.Exact),
                new CallFrame(Text + 0x5020, Stack + 0x4FF8, FrameKind.Exact),
                new CallFrame(0x401000, Stack + 0x5000, FrameKind.User, IsInterrupted: true),
            ],
            frames);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void ORC_ends_where_the_kernel_says(bool isNew)
    {
        var kernel = Kernel(isNew);
        kernel.State.Rip = Text + 0x1000;
        kernel.Push(0x1000, Text + 0x7010);
        kernel.Push(0x1008, Text + 0x2000); // what lies behind is not looked at
        Assert.Equal([Text + 0x1000, Text + 0x7010], Walk(kernel).Select(f => f.Address));
    }

    [Fact]
    public void The_stack_is_searched_where_ORC_gets_lost()
    {
        var kernel = Kernel(true);
        kernel.State.Rip = Text + 0x1000;
        kernel.Push(0x1000, 0x1122); // no return address
        kernel.Push(0x1018, Text + 0x2345);
        kernel.Push(0x1020, Text + 0x20000); // read-only data
        kernel.Push(0x1100, Text + 0x4001);
        Assert.Equal(
            [
                new CallFrame(Text + 0x1000, Stack + 0x1000, FrameKind.Exact),
                new CallFrame(Text + 0x2345, Stack + 0x1018, FrameKind.Guess),
                new CallFrame(Text + 0x4001, Stack + 0x1100, FrameKind.Guess),
            ],
            Walk(kernel));
    }

    [Fact]
    public void Frame_pointers_lead_where_there_is_no_ORC()
    {
        var kernel = new MadeUpKernel(Functions);
        ref var state = ref kernel.State;
        state.Gpr[5] = Stack + 0x1010;
        kernel.Push(0x1010, Stack + 0x1100);
        kernel.Push(0x1018, Text + 0x2010);
        kernel.Push(0x1100, Stack + 0x1201); // odd: pt_regs of what was interrupted
        kernel.Push(0x1108, Text + 0x3010);
        kernel.Push(0x1200 + 32, Stack + 0x1400);
        kernel.Push(0x1200 + 128, Text + 0x4010);
        kernel.Push(0x1200 + 136, 0x10);
        kernel.Push(0x1200 + 152, Stack + 0x1380);
        kernel.Push(0x1400, 0);
        kernel.Push(0x1408, Text + 0x7010);
        Assert.Equal([Text + 0x1000, Text + 0x2010, Text + 0x3010, Text + 0x4010, Text + 0x7010], Walk(kernel).Select(f => f.Address));
    }

    [Fact]
    public void Without_a_kernel_frame_pointers_are_all()
    {
        var kernel = Kernel(true);
        kernel.State.Gpr[5] = Stack + 0x1010;
        kernel.Push(0x1010, Stack + 0x1100);
        kernel.Push(0x1018, 0x5555);
        kernel.Push(0x1108, 0x6666);
        Assert.Equal([Text + 0x1000, 0x5555UL, 0x6666UL], StackWalker.Walk(null, kernel.Guest, in kernel.State).Select(f => f.Address));
    }

    [Fact]
    public void Frames_of_a_process_are_called_so()
    {
        var kernel = Kernel(true);
        ref var state = ref kernel.State;
        state.Segments[1].Selector = 0x33;
        state.Rip = 0x401234;
        kernel.Guest.Map(0x7FFF_0000_0000, 5 << 20, 1);
        state.Gpr[4] = 0x7FFF_0000_0100;
        state.Gpr[5] = 0x7FFF_0000_0200;
        kernel.Guest.Put((5 << 20) + 0x208, 0x405678);
        Assert.Equal(
            [new CallFrame(0x401234, 0x7FFF_0000_0100, FrameKind.User), new CallFrame(0x405678, 0x7FFF_0000_0208, FrameKind.User)],
            Walk(kernel));
    }

    [Fact]
    public void A_stack_that_refers_to_itself_ends()
    {
        var kernel = Kernel(true);
        ref var state = ref kernel.State;
        state.Rip = Text + 0x3000;
        state.Gpr[4] = Stack + 0x1000;
        for (ulong at = 0; at < 0x8000; at += 8)
            kernel.Push(at, at == 0x1098 ? Stack + 0x1000 : Text + 0x3000);
        Assert.InRange(Walk(kernel).Count, 1, StackWalker.DefaultLimit);
        kernel.Push(0x1000 + 152, Stack + 0x1000);
        kernel.Push(0x1000 + 136, 0x10);
        Assert.InRange(Walk(kernel).Count, 1, StackWalker.DefaultLimit);
    }

    [Fact]
    public void Random_stacks_and_tables_do_no_harm()
    {
        var random = new Random(3);
        var kernel = Kernel(true);
        var found = LinuxKernel.Find(kernel.Guest)!;
        for (var i = 0; i < 1000; i++)
        {
            for (ulong at = 0x800; at < 0x1800; at += 8)
                kernel.Push(at, random.Next(4) switch { 0 => Text + (ulong)random.Next(0xF000), 1 => Stack + (ulong)random.Next(0x8000), 2 => (ulong)random.NextInt64(), _ => ulong.MaxValue - (ulong)random.Next(9) });
            for (var k = 0; k < 20; k++)
                kernel.Image[0x11000 + random.Next(0x1100)] = (byte)random.Next(256);
            ref var state = ref kernel.State;
            state.Rip = random.Next(8) == 0 ? ulong.MaxValue : Text + (ulong)random.Next(0x8000);
            state.Gpr[4] = random.Next(8) == 0 ? ulong.MaxValue - 3 : Stack + (ulong)random.Next(0x2000);
            state.Gpr[5] = random.Next(8) == 0 ? ulong.MaxValue : Stack + (ulong)random.Next(0x2000);
            Assert.InRange(StackWalker.Walk(new KernelView(found, kernel.Guest), kernel.Guest, in state).Count, 1, StackWalker.DefaultLimit);
            Assert.NotEmpty(ContextDump.Write(kernel.Guest, found));
        }
    }

    private static IReadOnlyList<CallFrame> Walk(MadeUpKernel kernel) =>
        StackWalker.Walk(new KernelView(LinuxKernel.Find(kernel.Guest)!, kernel.Guest), kernel.Guest, in kernel.State);

    private static MadeUpKernel Kernel(bool isNew)
    {
        var (call, registers, interrupt, end) = isNew ? (2 << 8, 3 << 8, 4 << 8, 1 << 8) : (0, 1 << 8, 2 << 8, 1 << 10);
        return new MadeUpKernel(
            Functions,
            [
                (0x0000, 8, 0, Sp | call),
                (0x1000, 8, 0, Sp | call),
                (0x2000, 16, -16, Bp | (PreviousSp << 4) | call),
                (0x3000, 0, 0, Sp | registers),
                (0x4000, 8, 0, Sp | call),
                (0x5000, 0, 0, Sp | interrupt),
                (0x6000, -8, 0, BpIndirect | call),
                (0x7000, 0, 0, end),
                (0x8000, 8, 0, Sp | call),
                (0x9000, 0, 0, SpIndirect | call),
            ]);
    }
}
