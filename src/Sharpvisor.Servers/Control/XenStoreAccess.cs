// A domain's store as its tool stack sees it: everything may be read and changed. What is printed is what Xen's
// xenstore-ls(1), xenstore-read(1) and their like print (xenstore_client.c, xs_lib.c).
using System.Globalization;
using System.Text;
using Sharpvisor.Devices.Xen;
using Sharpvisor.Devices.Xen.Store;

namespace Sharpvisor.Servers.Control;

/// <summary>Does what a <see cref="XenStoreRequest"/> says. Each throws <see cref="ControlException"/> when it can't be done.</summary>
internal sealed class XenStoreAccess(ControlContext context)
{
    /// <summary>Columns of a terminal, and where rights begin.</summary>
    public const int DefaultWidth = 80;
    private const int RightsColumn = 60;

    /// <summary>What takes the place of a value that is too long, with what stands around it.</summary>
    private const int TagLength = 8;

    private Machine Machine => context.Machine;

    /// <summary>Does all of it, or as much as there is before an error, while the machine's devices stand still.</summary>
    /// <param name="width">Columns that a line of ls may have.</param>
    public string Execute(XenStoreRequest request, int width)
    {
        using (Machine.Gate.Enter())
        {
            var domain = Domain();
            var (store, text) = (domain.Store, new StringBuilder());
            var operands = request.Operands;
            switch (request.Verb)
            {
                case "ls":
                    foreach (var path in operands.Count == 0 ? ["/"] : operands)
                        new Listing(store, text, request.Has('f'), request.Has('p'), width).Write(Resolve(domain, path), 0);
                    break;
                case "list":
                    foreach (var path in operands)
                    {
                        Check(store.List(XenStore.PrivilegedDomain, 0, Resolve(domain, path), out var names, out _), "list", path);
                        foreach (var name in names)
                            text.Append(request.Has('p') ? $"{path}/" : "").Append(name).Append('\n');
                    }

                    break;
                case "read":
                    foreach (var path in operands)
                    {
                        Check(store.Read(XenStore.PrivilegedDomain, 0, Resolve(domain, path), out var value), "read", path);
                        text.Append(request.Has('p') ? $"{path}: " : "");
                        text.Append(request.Has('R') ? Encoding.Latin1.GetString(value.Span) : Escape(value.Span) + "\n");
                    }

                    break;
                case "write":
                    for (var i = 0; i < operands.Count; i += 2)
                        Check(store.Write(XenStore.PrivilegedDomain, 0, Resolve(domain, operands[i]), request.Has('R') ? Encoding.UTF8.GetBytes(operands[i + 1]) : Unescape(operands[i + 1])), "write", operands[i]);
                    break;
                case "rm":
                    foreach (var path in operands)
                        Remove(store, Resolve(domain, path), path, request.Has('t'));
                    break;
                case "chmod":
                    SetRights(store, Resolve(domain, operands[0]), operands, request.Has('u'), request.Has('r'));
                    break;
                default:
                    throw new ControlException("xenstore watch: a monitor has no events; give sharpvisor xenstore watch, or x-xenstore-watch by QMP");
            }

            return text.ToString();
        }
    }

    /// <summary>Tells of changes at a path and below it, as the store's watches do: at once, at each change, and when the domain begins anew.</summary>
    /// <param name="changed">Gets the path. Called with the gate held; it must not block.</param>
    public IDisposable Watch(string path, Action<string> changed)
    {
        using (Machine.Gate.Enter())
            return new Watcher(Machine, Resolve(Domain(), path), changed);
    }

    /// <summary>info xen.</summary>
    public string Describe()
    {
        using (Machine.Gate.Enter())
        {
            var domain = Domain();
            var text = new StringBuilder();
            text.Append(CultureInfo.InvariantCulture, $"domain {domain.Number}, Xen {XenDomain.Version >> 16}.{XenDomain.Version & 0xFFFF}\n");
            if (domain.Paravirtual is { } paravirtual)
            {
                text.Append(CultureInfo.InvariantCulture, $"paravirtual: {paravirtual.Mmu.PageCount} pages, processors up:{paravirtual.DescribeProcessors()}\n");
                text.Append(CultureInfo.InvariantCulture, $"page tables: {paravirtual.Mmu.TableGeneration} changes of present entries\n");
            }

            text.Append(CultureInfo.InvariantCulture, $"shared info: {(domain.Events.SharedInfo == 0 ? "not placed" : $"{domain.Events.SharedInfo:x16}")}\n");
            text.Append(CultureInfo.InvariantCulture, $"grant table: {domain.Grants.FrameCount} of {GrantTable.MaximumFrames} frames, {domain.Grants.UseCount} grants in use\n");
            text.Append(CultureInfo.InvariantCulture, $"xenstore: {domain.Store.NodeCount} nodes, {domain.Store.WatchCount} watches, {domain.Store.TransactionCount} transactions\n");
            text.Append("event channels:\n");
            for (var port = 1u; port < EventChannels.PortCount; port++)
            {
                if (domain.Events.GetStatus(port, out var status) == XenError.None && status.State != EventChannelState.Closed)
                    text.Append(CultureInfo.InvariantCulture, $"{port,6}: cpu {status.Processor} {Describe(status)}{(domain.Events.IsPending(port) ? " pending" : "")}\n");
            }

            text.Append("hypercalls:\n");
            foreach (var call in domain.CountCalls())
                text.Append(CultureInfo.InvariantCulture, $"{call.Number,6}: {call.Name ?? "unknown"}{(call.Command is { } command ? $" {command}" : "")}: {call.Count}\n");
            return text.ToString();
        }
    }

    private static string Describe(EventChannelStatus status) => status.State switch
    {
        EventChannelState.Unbound => $"unbound (domain {status.Domain} may bind)",
        EventChannelState.Interdomain => $"interdomain (domain {status.Domain}, port {status.Detail})",
        EventChannelState.Virq => $"virq {status.Detail}",
        _ => "ipi",
    };

    private static void Check(StoreError error, string verb, string path)
    {
        if (error != StoreError.None)
            throw Error(error, verb, path);
    }

    private static ControlException Error(StoreError error, string verb, string path) => new(error switch
    {
        StoreError.ENOENT => $"xenstore {verb}: {path}: there is no such node",
        StoreError.EINVAL => $"xenstore {verb}: {path}: that can't be done with it",
        StoreError.E2BIG => $"xenstore {verb}: {path}: too long",
        _ => $"xenstore {verb}: {path}: {error}",
    });

    private static string Resolve(XenDomain domain, string path) => XenStore.Resolve(path, domain.Number)
        ?? throw new ControlException($"xenstore: {path}: is no path; one has names of letters, digits, - _ and @ with a slash between each two");

    /// <param name="isTidy">With it, nodes above that are left without a value and without children.</param>
    private static void Remove(XenStore store, string path, string given, bool isTidy)
    {
        // The store does not mind what is not there; whoever types it does.
        Check(store.Read(XenStore.PrivilegedDomain, 0, path, out _), "rm", given);
        Check(store.Remove(XenStore.PrivilegedDomain, 0, path), "rm", given);
        while (isTidy && path.LastIndexOf('/') is > 0 and var end)
        {
            path = path[..end];
            store.Read(XenStore.PrivilegedDomain, 0, path, out var value);
            store.List(XenStore.PrivilegedDomain, 0, path, out var names, out _);
            if (value.Length > 0 || names.Count > 0)
                return;
            store.Remove(XenStore.PrivilegedDomain, 0, path);
        }
    }

    private static void SetRights(XenStore store, string path, IReadOnlyList<string> operands, bool isUpTo, bool isRecursive)
    {
        List<StoreRight> rights = [];
        foreach (var word in operands.Skip(1))
            rights.Add(StoreRight.TryParse(word, out var right) ? right : throw new ControlException($"xenstore chmod: {word}: is no right; give n, r, w or b and a domain: r5"));
        Check(store.SetRights(XenStore.PrivilegedDomain, 0, path, rights), "chmod", operands[0]);
        for (var above = path; isUpTo && above.LastIndexOf('/') is > 0 and var end;)
        {
            above = above[..end];
            store.SetRights(XenStore.PrivilegedDomain, 0, above, rights);
        }

        if (isRecursive)
            SetBelow(path);

        void SetBelow(string at)
        {
            store.List(XenStore.PrivilegedDomain, 0, at, out var names, out _);
            foreach (var name in names)
            {
                var child = Join(at, name);
                store.SetRights(XenStore.PrivilegedDomain, 0, child, rights);
                SetBelow(child);
            }
        }
    }

    private static string Join(string path, string name) => path.EndsWith('/') ? path + name : $"{path}/{name}";

    private static string Escape(ReadOnlySpan<byte> value)
    {
        const byte firstInHexadecimal = 8;
        var text = new StringBuilder();
        foreach (var b in value)
        {
            text.Append(b switch
            {
                (byte)'\t' => @"\t",
                (byte)'\n' => @"\n",
                (byte)'\r' => @"\r",
                (byte)'\\' => @"\\",
                >= (byte)' ' and <= (byte)'~' => ((char)b).ToString(),
                < firstInHexadecimal => $@"\00{b}",
                _ => $@"\x{b:x2}",
            });
        }

        return text.ToString();
    }

    private static byte[] Unescape(string text)
    {
        List<byte> value = [];
        for (var i = 0; i < text.Length; i++)
        {
            if (text[i] != '\\' || i + 1 == text.Length)
            {
                value.AddRange(Encoding.UTF8.GetBytes(char.IsHighSurrogate(text[i]) && i + 1 < text.Length ? text.Substring(i++, 2) : text[i].ToString()));
                continue;
            }

            var kind = text[++i];
            switch (kind)
            {
                case 't' or 'n' or 'r':
                    value.Add((byte)(kind == 't' ? '\t' : kind == 'n' ? '\n' : '\r'));
                    break;
                case 'x':
                    i += Digits(text, i + 1, 16, 2, value);
                    break;
                case >= '0' and <= '7':
                    i += Digits(text, i, 8, 3, value) - 1;
                    break;
                default:
                    value.AddRange(Encoding.UTF8.GetBytes(kind.ToString()));
                    break;
            }
        }

        return [.. value];
    }

    /// <returns>How many digits there were.</returns>
    private static int Digits(string text, int start, int radix, int most, List<byte> value)
    {
        var (count, number) = (0, 0);
        for (; count < most && start + count < text.Length && char.IsAsciiHexDigit(text[start + count]) && Convert.ToInt32(text[start + count].ToString(), 16) is var digit && digit < radix; count++)
            number = (number * radix) + digit;
        value.Add((byte)number);
        return count;
    }

    private XenDomain Domain()
    {
        if (Machine.Exit.IsCompleted)
            throw new InvalidOperationException("the machine has ended");
        return Machine.Xen ?? throw new ControlException($"{Machine.Name} is no Xen domain: it has no xenstore; start it with -machine xenfv, xenpvh or xenpv");
    }

    /// <summary>What ls prints.</summary>
    private sealed class Listing(XenStore store, StringBuilder text, bool isFlat, bool hasRights, int width)
    {
        public void Write(string path, int depth)
        {
            var error = store.List(XenStore.PrivilegedDomain, 0, path, out var names, out _);
            Check(error, "ls", path);
            foreach (var name in names)
            {
                var child = Join(path, name);
                store.Read(XenStore.PrivilegedDomain, 0, child, out var value);
                var line = isFlat ? child : Cut(new string(' ', depth) + name, width - TagLength);
                var isLong = !isFlat && width < line.Length + value.Length + TagLength;
                line += isLong ? $" = \"{Cut(Escape(value.Span), width - TagLength - line.Length)}\\...\"" : $" = \"{Escape(value.Span)}\"";
                if (hasRights)
                {
                    if (!isLong)
                        line = Fill(line + ' ');
                    store.GetRights(XenStore.PrivilegedDomain, 0, child, out var rights);
                    line += $"  ({string.Join(',', rights)})";
                }

                text.Append(line).Append('\n');
                Write(child, depth + 1);
            }
        }

        private static string Cut(string line, int length) => line[..Math.Clamp(length, 0, line.Length)];

        /// <summary>Leads the eye to the rights, by dots.</summary>
        private string Fill(string line)
        {
            var filled = new StringBuilder(line);
            while (!isFlat && filled.Length < Math.Min(RightsColumn, width))
                filled.Append((filled.Length & 1) != 0 ? '.' : ' ');
            return filled.ToString();
        }
    }

    /// <summary>A watch that goes on when the domain, and with it its store, begins anew.</summary>
    private sealed class Watcher : IDisposable
    {
        private readonly Machine _machine;
        private readonly string _path;
        private readonly string _token = Guid.NewGuid().ToString("N");
        private readonly Action<string> _changed;
        private bool _isOver;

        public Watcher(Machine machine, string path, Action<string> changed)
        {
            (_machine, _path, _changed) = (machine, path, changed);
            machine.Happened += OnHappened;
            Begin();
        }

        public void Dispose()
        {
            using (_machine.Gate.Enter())
            {
                _isOver = true;
                _machine.Happened -= OnHappened;
                _machine.Xen?.Store.Unwatch(XenStore.PrivilegedDomain, _path, _token);
            }
        }

        private void Begin() => _machine.Xen?.Store.Watch(XenStore.PrivilegedDomain, _path, null, _token, (path, _) => _changed(path));

        private void OnHappened(MachineEvent e)
        {
            if (e.Kind != MachineEventKind.Reset)
                return;
            using (_machine.Gate.Enter())
            {
                if (!_isOver)
                    Begin();
            }
        }
    }
}
