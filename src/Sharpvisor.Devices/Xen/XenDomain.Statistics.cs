using System.Runtime.InteropServices;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Devices.Xen;

/// <summary>A kind of hypercall, and how often the domain has made it.</summary>
/// <param name="Number">In xen.h.</param>
/// <param name="Command">Its first argument, if that says what is asked for; null: it has none.</param>
public readonly record struct HypercallCount(int Number, int? Command, long Count)
{
    private static readonly string?[] Names =
    [
        "set_trap_table", "mmu_update", "set_gdt", "stack_switch", "set_callbacks", "fpu_taskswitch", null, "platform_op", "set_debugreg", "get_debugreg",
        "update_descriptor", null, "memory_op", "multicall", "update_va_mapping", "set_timer_op", null, "xen_version", "console_io", null, "grant_table_op",
        "vm_assist", null, "iret", "vcpu_op", "set_segment_base", "mmuext_op", "xsm_op", "nmi_op", "sched_op", "callback_op", "xenoprof_op",
        "event_channel_op", "physdev_op", "hvm_op", "sysctl", "domctl", "kexec_op", null, "argo_op", "xenpmu_op",
    ];

    /// <summary>As in xen.h, without HYPERVISOR_; null for a number that no domain of today uses.</summary>
    public string? Name => Number < Names.Length ? Names[Number] : null;
}

/// <content>What the domain has asked for so far.</content>
public sealed partial class XenDomain
{
    /// <summary>More kinds than a domain has use for; what is beyond counts as one more, of this number.</summary>
    private const int CountedKinds = 256, OtherKinds = int.MaxValue;

    private readonly Dictionary<(int Number, int Command), long> _calls = [];

    /// <summary>By processor: the last hypercall but for HYPERVISOR_iret, and its result once there is one.</summary>
    private readonly (Hypercall Call, ulong? Value)?[] _last;

    /// <summary>The hypercalls of its kernel since the last reset, by number and command.</summary>
    public IReadOnlyList<HypercallCount> CountCalls() => [.. _calls
        .Select(c => new HypercallCount(c.Key.Number, c.Key.Command < 0 ? null : c.Key.Command, c.Value))
        .OrderBy(c => c.Number).ThenBy(c => c.Command)];

    private static bool HasCommand(ulong number) => number is 12 or 17 or 18 or 20 or 24 or 28 or 29 or 30 or 32 or 33 or 34 or 37 or 40;

    /// <summary>The hypercall that a processor has made last (each of a multicall counts) and what it got; "none".</summary>
    internal string DescribeLastCall(int processor)
    {
        if (_last[processor] is not { } last)
            return "none";
        var call = last.Call;
        var name = new HypercallCount((int)Math.Min(call.Number, OtherKinds), null, 0).Name ?? $"number {call.Number}";
        return $"{name}(0x{call.Arg1:x}, 0x{call.Arg2:x}, 0x{call.Arg3:x}, 0x{call.Arg4:x}), {(last.Value is { } value ? $"which returned {(long)value}" : "which was being served")}";
    }

    private void Count(in Hypercall call)
    {
        var key = ((int)Math.Min(call.Number, OtherKinds), HasCommand(call.Number) ? (int)Math.Min(call.Arg1, OtherKinds) : -1);
        if (_calls.Count >= CountedKinds && !_calls.ContainsKey(key))
            key = (OtherKinds, -1);
        CollectionsMarshal.GetValueRefOrAddDefault(_calls, key, out _)++;
    }
}
