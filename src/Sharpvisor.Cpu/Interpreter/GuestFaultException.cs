namespace Sharpvisor.Cpu.Interpreter;

/// <summary>
/// Leaves the handler of an instruction that raises an exception of the guest. What is raised stands in the
/// <see cref="State.CpuContext"/>. One instance a vCPU, never seen outside of the engine.
/// </summary>
internal sealed class GuestFaultException : Exception;
