namespace Sharpvisor.Core.Guests;

/// <summary>What processors in paravirtual mode ask their hypervisor, beside hypercalls.</summary>
public interface IParavirtualDomain
{
    /// <summary>The linear addresses that are the hypervisor's in every address space: from here, and how many.</summary>
    const ulong HoleStart = 0xFFFF_8000_0000_0000, HoleLength = 0x0000_0800_0000_0000;

    /// <summary>Where the machine-to-physical table lies in it, which guests may read.</summary>
    const ulong MachineToPhysical = HoleStart;

    /// <summary>Where the processors find their GDTs, 64 KiB each: for themselves only.</summary>
    const ulong DescriptorTables = 0xFFFF_8300_0000_0000, DescriptorTableLength = 0x1_0000;

    /// <summary>Guest-physical address of a processor's vcpu_info. Without the gate.</summary>
    ulong VcpuInfo(int processor);

    /// <summary>What lies at an address of the hole; without the gate. Nothing there may be written by guests.</summary>
    bool TryTranslateHole(int processor, ulong linear, out ulong physical);

    /// <summary>
    /// Counts changes of present entries of page tables, and tables that are none any more: while it stays the same, no
    /// translation that a processor has can be wrong. Without the gate; a change counts after it was made.
    /// </summary>
    long TableGeneration { get; }

    /// <summary>The same, of entries by which code is fetched, and of all but the last level.</summary>
    long CodeGeneration { get; }

    /// <summary>Counts how often a frame (and maybe others) was a top table and is none any more: it may be another one when it is again.</summary>
    /// <param name="root">Machine address.</param>
    long RootGeneration(ulong root);

    /// <summary>
    /// The kernel stores to a page that it may only read: true if that is a page table whose entries may be written so.
    /// The gate is held from here to <see cref="EndTableWrite"/>.
    /// </summary>
    /// <param name="physical">The first byte of the operand.</param>
    bool BeginTableWrite(ulong physical);

    /// <summary>The store is done: false, and it is undone, if the entry is none that the domain may have.</summary>
    bool EndTableWrite(IParavirtualProcessor processor);

    /// <summary>The kernel sees and sets its IOPL in RFLAGS (VMASST_TYPE_architectural_iopl). Without the gate.</summary>
    bool ShowsIoPrivilege { get; }

    /// <summary>MOV to CR3 of a kernel, with the gate held. False: that is no page table that it may have.</summary>
    /// <param name="root">Guest-physical address.</param>
    bool TrySetRoot(IParavirtualProcessor processor, ulong root);

    /// <summary>A processor that waited is to run: sets it up as VCPUOP_initialise said. With the gate held. False: it can't, and waits on.</summary>
    bool StartProcessor(IParavirtualProcessor processor);

    /// <summary>A processor can't go on; the domain is to be stopped as crashed.</summary>
    /// <param name="reason">For a person, in one line.</param>
    /// <param name="state">What the processor was doing, in some lines.</param>
    void Crash(int processor, string reason, string state);
}
