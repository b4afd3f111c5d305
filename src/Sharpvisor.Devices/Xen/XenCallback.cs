// How a domain is told of events on a processor for which it has named no vector of its own: HVM_PARAM_CALLBACK_IRQ.
// Follows: Xen's public header hvm/params.h; arch/x86/hvm/irq.c's behaviour: a line is level-triggered and follows the first
// processor's flag, a vector is delivered without the local APIC and needs no EOI.
// Xen looks at the flag at each VM exit. Here that is when it matters: with hypercalls, before an interrupt ends, before the
// PIC gives its vector, and with the next event, which falls only when the flag was clear: then the line has been low.

using Sharpvisor.Core.Interrupts;
using Sharpvisor.Devices.Interrupts;

namespace Sharpvisor.Devices.Xen;

/// <summary>What a domain is offered to be told of events by; those further down are offered, too.</summary>
public enum XenCallbackOffer
{
    /// <summary>A vector of each processor's local APIC: HVMOP_set_evtchn_upcall_vector.</summary>
    ProcessorVector,

    /// <summary>One vector on every processor, past the local APIC: what Xen before 4.6 had.</summary>
    Vector,

    /// <summary>A line, whose events are the first processor's: what Xen before 4.2 had.</summary>
    Line,
}

/// <summary>Used with the machine's gate held.</summary>
public sealed class XenCallback(EventChannels events, IReadOnlyList<LocalApic> apics)
{
    private const int LineType = 0, PinType = 1, VectorType = 2, TypeShift = 56;

    private IInterruptLine? _line;
    private byte _vector;
    private bool _asserted;

    /// <summary>What a domain is offered to be told by; of a line there is always one.</summary>
    public XenCallbackOffer Offer { get; set; }

    /// <summary>The lines of the global system interrupts, by number; empty on a machine without an I/O APIC.</summary>
    public IReadOnlyList<IInterruptLine> Lines { get; set; } = [];

    /// <summary>The pin of Xen's platform device and its number on the bus; null: there is none.</summary>
    public (int Devfn, IInterruptLine Line)? Pin { get; set; }

    /// <summary>HVM_PARAM_CALLBACK_IRQ is set.</summary>
    public XenError Set(ulong value)
    {
        const ulong numberMask = (1UL << TypeShift) - 1;
        var number = value & numberMask;
        IInterruptLine? line = null;
        byte vector = 0;
        switch ((int)(value >> TypeShift))
        {
            case LineType when number == 0 || number == 1: // none; 1 is what says that processors have vectors
                break;
            case LineType when number < (ulong)Lines.Count:
                line = Lines[(int)number];
                break;
            case PinType when Pin is { } pin && (number >> 8 & 0xFFFF_FFFF_FF) == (ulong)pin.Devfn && (number & 3) == 0:
                line = pin.Line;
                break;
            case VectorType when Offer != XenCallbackOffer.Line && number is >= 16 and <= byte.MaxValue:
                vector = (byte)number;
                break;
            default:
                return XenError.EINVAL;
        }

        SetLevel(false);
        (_line, _vector) = (line, vector);
        Update();
        for (var i = 0; vector != 0 && i < apics.Count; i++)
        {
            if (events.HasUpcall(i))
                Raise(i);
        }

        return XenError.None;
    }

    public void Reset()
    {
        SetLevel(false);
        (_line, _vector) = (null, 0);
    }

    /// <summary>A processor's flag of waiting events has been set.</summary>
    public void Raise(int processor)
    {
        if (_vector != 0)
            apics[processor].InjectDirect(_vector);
        else if (processor == 0)
        {
            SetLevel(false);
            SetLevel(true);
        }
    }

    /// <summary>The domain may have cleared the flag.</summary>
    public void Update()
    {
        if (_line is not null)
            SetLevel(events.HasUpcall(0));
    }

    private void SetLevel(bool asserted)
    {
        if (_line is null || asserted == _asserted)
            return;
        _asserted = asserted;
        _line.Set(asserted);
    }
}
