// Tells kernels apart by their magic numbers, in QEMU's order: bzImage ("HdrS" at 0x202, 0xAA55 at 0x1FE), multiboot, ELF;
// and what people give by mistake: an ARM64 Image ("ARM\x64" at 0x38, Documentation/arch/arm64/booting.rst), an EFI zboot image ("zimg" at 4),
// compressed files, text.
using System.Buffers.Binary;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Boot;

internal static class KernelProbe
{
    private const string WhatToGive = "give an x86-64 Linux bzImage (vmlinuz), an ELF vmlinux, an ELF image with a PVH entry, or a multiboot kernel";

    public static BootPlan Plan(BootRequest request)
    {
        var kernel = request.Kernel;
        var head = Head(kernel);
        if (request.NeedsPvh)
            return PlanPvh(request, head);
        if (IsBzImage(head))
            return request.Way == BootWay.Direct ? BzImageLoader.Plan(NoModules(request)) : RealModeLoader.Plan(NoModules(request));
        if (FindMultiboot(kernel, head) is { } header)
            return MultibootLoader.Plan(request, header);
        if (head.AsSpan().StartsWith(ElfImage.Magic))
            return ElfLoader.Plan(NoModules(request));
        throw new ConfigurationException($"{kernel.Name}: {Describe(head)}; {WhatToGive}");
    }

    /// <summary>A bzImage is unpacked first: the PVH entry is the kernel's own.</summary>
    private static BootPlan PlanPvh(BootRequest request, byte[] head)
    {
        var name = request.Kernel.Name;
        request = request with { Kernel = UnpackToElf(request.Kernel, head) };
        return ElfLoader.HasPvhEntry(request.Kernel)
            ? ElfLoader.Plan(request)
            : throw new ConfigurationException($"{name}: has no PVH entry (Xen note 18), by which domains start; give a Linux kernel built with CONFIG_PVH");
    }

    /// <summary>The ELF kernel that a domain of Xen's is made of: a bzImage's own, or the file itself; either packed by gzip, too.</summary>
    /// <exception cref="ConfigurationException">It is neither, or damaged.</exception>
    public static BootSource UnpackToElf(BootSource kernel) => UnpackToElf(kernel, Head(kernel));

    private static BootSource UnpackToElf(BootSource kernel, byte[] head)
    {
        if (IsGzip(head))
        {
            kernel = KernelPayload.UnpackGzip(kernel);
            head = Head(kernel);
        }

        if (IsBzImage(head))
            return KernelPayload.Unpack(kernel);
        return head.AsSpan().StartsWith(ElfImage.Magic) ? kernel : throw new ConfigurationException($"{kernel.Name}: {Describe(head)}; {WhatToGive}");
    }

    public static bool IsMultiboot(BootSource kernel)
    {
        var head = Head(kernel);
        return !IsBzImage(head) && FindMultiboot(kernel, head) is not null;
    }

    public static bool NeedsFirmware(BootSource kernel) =>
        IsBzImage(Head(kernel)) && LinuxSetupHeader.Parse(kernel, BootWay.Firmware).IsRealModeOnly;

    private static byte[] Head(BootSource kernel) => kernel.Read(0, (int)Math.Min(kernel.Length, 0x400));

    private static bool IsGzip(byte[] head) => head is [0x1F, 0x8B, _, _, ..];

    private static bool IsBzImage(byte[] head) => IsAt(head, 0x202, LinuxSetupHeader.Magic);

    /// <summary>The header of a kernel that multiboot can load; a 64-bit one may have a PVH entry beside it.</summary>
    private static MultibootHeader? FindMultiboot(BootSource kernel, byte[] head)
    {
        if (MultibootHeader.Find(kernel) is not { } header)
            return null;
        var isElf64 = head.AsSpan().StartsWith(ElfImage.Magic) && head[4] == ElfImage.Class64;
        return isElf64 && !header.HasAddresses && ElfLoader.HasPvhEntry(kernel) ? null : header;
    }

    private static BootRequest NoModules(BootRequest request) => request.Modules.Count == 0
        ? request
        : throw new ConfigurationException($"{request.Kernel.Name}: modules are for multiboot kernels, and it is none; give one -initrd");

    private static string Describe(byte[] head)
    {
        if (head.Length == 0)
            return "is empty";
        if (IsAt(head, 0x38, 0x644D5241))
            return "is an ARM64 kernel";
        if (IsAt(head, 4, 0x676D697A))
            return "is an EFI zboot kernel, made for another architecture";
        if (IsAt(head, 0x24, 0x016F2818))
            return "is a 32-bit ARM kernel";
        if (IsGzip(head))
            return "is compressed with gzip: unpack it first, or it is the kernel of another architecture";
        if (head is [0x28, 0xB5, 0x2F, 0xFD, ..])
            return "is compressed with zstd: unpack it first";
        if (head is [0xFD, (byte)'7', (byte)'z', ..])
            return "is compressed with xz: unpack it first";
        if (!head.AsSpan().ContainsAnyExcept(TextCharacters))
            return "is a text file, not a kernel";
        if (IsAt16(head, 0x1FE, 0xAA55))
            return "is a boot sector or disk image, not a kernel";
        if (head.Length < 0x206)
            return "is too short for a kernel";
        return "is not a kernel";
    }

    private static readonly System.Buffers.SearchValues<byte> TextCharacters =
        System.Buffers.SearchValues.Create([.. Enumerable.Range(0x20, 0x5F).Select(c => (byte)c), (byte)'\t', (byte)'\n', (byte)'\r', .. Enumerable.Range(0x80, 0x80).Select(c => (byte)c)]);

    private static bool IsAt(byte[] head, int offset, uint magic) =>
        head.Length >= offset + 4 && BinaryPrimitives.ReadUInt32LittleEndian(head.AsSpan(offset)) == magic;

    private static bool IsAt16(byte[] head, int offset, ushort magic) =>
        head.Length >= offset + 2 && BinaryPrimitives.ReadUInt16LittleEndian(head.AsSpan(offset)) == magic;
}
