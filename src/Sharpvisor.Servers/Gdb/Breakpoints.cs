// Z and z packets (GDB manual, "Packets"): kinds 0 to 4, with conditions ("Agent Expressions"). Left out: commands of
// breakpoints (cmds:).
using Sharpvisor.Cpu.State;
using Sharpvisor.Debugging;

namespace Sharpvisor.Servers.Gdb;

/// <summary>The digit of a Z packet.</summary>
internal enum BreakpointKind
{
    Software,
    Hardware,
    WriteWatch,
    ReadWatch,
    AccessWatch,
}

/// <summary>What one debugger has inserted. The same twice is once, as the protocol wants it.</summary>
internal sealed class Breakpoints(IGdbTarget target)
{
    /// <summary>Beyond that somebody is not debugging.</summary>
    private const int MaximumCount = 16_384;

    private const ulong MaximumLength = 1 << 20;

    private readonly Dictionary<Place, AgentExpression[]> _places = [];

    public bool IsEmpty => _places.Count == 0;

    /// <param name="conditions">Any of them has to be true; none: always.</param>
    public bool TryInsert(BreakpointKind kind, ulong address, ulong length, AgentExpression[] conditions)
    {
        var place = PlaceOf(kind, address, length);
        if (kind >= BreakpointKind.WriteWatch && (length is 0 or > MaximumLength || address + (length - 1) < address))
            return false;
        if (!_places.ContainsKey(place))
        {
            if (_places.Count >= MaximumCount)
                return false;
            Insert(place);
        }

        _places[place] = conditions;
        return true;
    }

    /// <summary>What is not there need not be removed.</summary>
    public void Remove(BreakpointKind kind, ulong address, ulong length)
    {
        var place = PlaceOf(kind, address, length);
        if (_places.Remove(place))
            Remove(place);
    }

    public void Clear()
    {
        foreach (var place in _places.Keys)
            Remove(place);
        _places.Clear();
    }

    public bool IsInserted(BreakpointKind kind, ulong address) => _places.ContainsKey(PlaceOf(kind, address, 0));

    /// <summary>The kind of the watchpoint at an address, as it was asked for.</summary>
    public BreakpointKind WatchAt(ulong address, WatchKind access)
    {
        foreach (var place in _places.Keys)
        {
            if (place.Kind >= BreakpointKind.WriteWatch && address - place.Address < place.Length && (WatchOf(place.Kind) & access) != 0)
                return place.Kind;
        }

        return (access & WatchKind.Write) != 0 ? BreakpointKind.WriteWatch : BreakpointKind.ReadWatch;
    }

    /// <summary>Whether a stop at a breakpoint is one that the debugger wants to see. What can't be evaluated is.</summary>
    public bool IsWanted(in DebugStop stop, RegisterView registers)
    {
        if (stop.Kind != DebugStopKind.Breakpoint)
            return true;
        var state = target.GetState(stop.Processor);
        var isKnown = false;
        for (var kind = BreakpointKind.Software; kind <= BreakpointKind.Hardware; kind++)
        {
            if (!_places.TryGetValue(PlaceOf(kind, stop.Address, 0), out var conditions))
                continue;
            isKnown = true;
            if (conditions.Length == 0)
                return true;
            foreach (var condition in conditions)
            {
                if (!condition.TryEvaluate(in state, registers, target, out var value) || value != 0)
                    return true;
            }
        }

        return !isKnown;
    }

    /// <summary>What the last field says of a breakpoint in code, the length of its instruction, means nothing here.</summary>
    private static Place PlaceOf(BreakpointKind kind, ulong address, ulong length) => new(kind, address, kind >= BreakpointKind.WriteWatch ? length : 0);

    private static WatchKind WatchOf(BreakpointKind kind) => kind switch
    {
        BreakpointKind.WriteWatch => WatchKind.Write,
        BreakpointKind.ReadWatch => WatchKind.Read,
        _ => WatchKind.Access,
    };

    private void Insert(Place place)
    {
        if (place.Kind < BreakpointKind.WriteWatch)
            target.InsertBreakpoint(place.Address);
        else
            target.InsertWatchpoint(WatchOf(place.Kind), place.Address, place.Length);
    }

    private void Remove(Place place)
    {
        if (place.Kind < BreakpointKind.WriteWatch)
            target.RemoveBreakpoint(place.Address);
        else
            target.RemoveWatchpoint(WatchOf(place.Kind), place.Address, place.Length);
    }

    private readonly record struct Place(BreakpointKind Kind, ulong Address, ulong Length);
}
