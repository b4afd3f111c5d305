namespace Sharpvisor.Core.Guests;

/// <summary>An entry of a paravirtual kernel's trap table: what stands for a gate of the IDT.</summary>
/// <param name="Address">Where the handler begins; 0: there is none.</param>
/// <param name="Privilege">The least privileged ring, 0 to 3, that may come here by INT.</param>
/// <param name="MasksEvents">Events are masked when the handler is entered.</param>
public readonly record struct TrapGate(ulong Address, int Privilege, bool MasksEvents);

/// <summary>Where a paravirtual kernel is entered other than by its trap table: CALLBACKTYPE_*.</summary>
public enum ParavirtualEntry
{
    Event,
    Failsafe,
    SystemCall,
    SystemCall32,
    SystemEnter,
    Nmi,
}

/// <summary>Segment bases that a kernel in ring 3 can't set itself: SEGBASE_*.</summary>
public enum ParavirtualSegmentBase
{
    Fs = 0,
    UserGs = 1,
    KernelGs = 2,

    /// <summary>Not a base: the selector of the user's GS.</summary>
    UserGsSelector = 3,
}

/// <summary>Registers that a processor of a paravirtual domain starts with: user_regs of a vcpu_guest_context.</summary>
/// <param name="IsKernel">It begins in the kernel, not in a program of it.</param>
/// <param name="General">In encoding order: rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8 to r15.</param>
public sealed record ParavirtualRegisters(bool IsKernel, IReadOnlyList<ulong> General, ulong Rip, ulong Rflags, ushort Cs, ushort Ss, ushort Ds, ushort Es, ushort Fs, ushort Gs);

/// <summary>
/// The processor that makes a hypercall, as the hypervisor of a paravirtual kernel drives it. All with the machine's gate
/// held, on the thread of that processor.
/// </summary>
public interface IParavirtualProcessor : ILinearMemory
{
    int Index { get; }

    /// <summary>The top page table of the kernel's address space, a guest-physical address.</summary>
    ulong KernelRoot { get; set; }

    /// <summary>The same while its programs run; 0: none was given.</summary>
    ulong UserRoot { get; set; }

    /// <summary>IOPL of the kernel, which decides whether its IN, OUT, CLI and STI are emulated.</summary>
    int IoPrivilege { get; set; }

    /// <summary>Which ports programs may use: a bitmap like that of a TSS, in the kernel's address space.</summary>
    /// <param name="ports">0 to 65536; those behind it may not be used.</param>
    void SetIoBitmap(ulong linear, int ports);

    /// <summary>CR0.TS: the next use of the FPU is told to the kernel.</summary>
    void SetTaskSwitched(bool value);

    void SetTrap(int vector, in TrapGate gate);

    void SetEntry(ParavirtualEntry entry, ulong address, bool masksEvents);

    /// <summary>Where the kernel is entered from its programs.</summary>
    void SetKernelStack(ushort selector, ulong pointer);

    /// <summary>The frames of the GDT have changed, and with them how many descriptors there are.</summary>
    void SetGdt(int entries);

    /// <param name="linear">Of the kernel's address space.</param>
    void SetLdt(ulong linear, int entries);

    /// <returns>False: no base, or no selector, that a processor takes.</returns>
    bool SetSegmentBase(ParavirtualSegmentBase kind, ulong value);

    /// <summary>Which debug register a number means: DR4 and DR5 are DR6 and DR7 without CR4.DE. Null: none.</summary>
    int? FindDebugRegister(ulong number);

    /// <param name="index">Of <see cref="FindDebugRegister"/>.</param>
    ulong GetDebugRegister(int index);

    /// <param name="index">Of <see cref="FindDebugRegister"/>.</param>
    /// <returns>False: the register takes no such value.</returns>
    bool SetDebugRegister(int index, ulong value);

    /// <returns>False: a selector that leads nowhere, or an address that is none.</returns>
    bool SetRegisters(ParavirtualRegisters registers);

    /// <summary>The end of a trap: the frame is on the stack. A frame that can't be used crashes the domain.</summary>
    /// <returns>RAX of what was interrupted.</returns>
    ulong ReturnFromTrap();

    /// <summary>Forgets translations of this processor, in both address spaces: of one page, or (null) all.</summary>
    void FlushTlb(ulong? linear);

    /// <summary>The same on other processors, by a bit each; it has happened when the hypercall is over.</summary>
    void FlushTlbOf(ulong processors, ulong? linear);
}
