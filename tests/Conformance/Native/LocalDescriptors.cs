using System.Runtime.InteropServices;
using Conformance.Fuzzing;

namespace Conformance.Native;

/// <summary>The process's LDT, by Linux's modify_ldt(2).</summary>
internal static unsafe partial class LocalDescriptors
{
    private const nint ModifyLdt = 154, WriteEntry = 0x11;

    public static void Set(SegmentSet[] sets)
    {
        foreach (var set in sets)
        {
            for (var i = 0; i < SegmentSet.Count; i++)
            {
                var register = set[i];
                if (!register.Present)
                    continue;
                var code = (register.Attributes & 8) != 0;
                var contents = code ? 2u : (register.Attributes & 4) != 0 ? 1u : 0;
                var readOnly = (register.Attributes & 2) == 0;
                var description = new UserDescriptor
                {
                    Entry = (uint)register.Selector >> 3,
                    Base = (uint)register.Base,
                    Limit = register.Limit,
                    Flags = (register.Big ? 1u : 0) | (contents << 1) | (readOnly ? 8u : 0),
                };
                if (SystemCall(ModifyLdt, WriteEntry, &description, sizeof(UserDescriptor)) != 0)
                    throw new InvalidOperationException("modify_ldt failed: the host's kernel has no LDT, or no 16-bit segments");
            }
        }
    }

    [LibraryImport("libc", EntryPoint = "syscall")]
    private static partial nint SystemCall(nint number, nint function, UserDescriptor* description, nint size);

    /// <summary>struct user_desc: limits in bytes, flags seg_32bit, contents, read_exec_only from bit 0 on.</summary>
    [StructLayout(LayoutKind.Sequential)]
    private struct UserDescriptor
    {
        public uint Entry, Base, Limit, Flags;
    }
}
