// QEMU's -object secret: a password by a name, from a file (so that no process list shows it) or the command line.
using System.Text;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Servers.Secrets;

/// <summary>A parsed value of <c>-object secret,…</c>.</summary>
/// <param name="Id">What others refer to it by.</param>
public sealed record Secret(string Id)
{
    private const int MaximumSize = 64 * 1024;

    /// <summary>Without the end of line that an editor or echo leaves in a file.</summary>
    public required byte[] Data { get; init; }

    /// <exception cref="ConfigurationException">Malformed, or the file can't be read.</exception>
    public static Secret Parse(string value)
    {
        var parts = value.Split(',');
        if (parts[0] != "secret")
            throw new ConfigurationException($"-object {parts[0]}: not in this version; there is secret");
        string? id = null, data = null, file = null;
        var isBase64 = false;
        foreach (var part in parts.Skip(1))
        {
            var equals = part.IndexOf('=', StringComparison.Ordinal);
            var text = equals < 0 ? "" : part[(equals + 1)..];
            switch (equals < 0 ? part : part[..equals])
            {
                case "id":
                    id = text;
                    break;
                case "data":
                    data = text;
                    break;
                case "file":
                    file = text;
                    break;
                case "format" when text is "raw" or "base64":
                    isBase64 = text == "base64";
                    break;
                case "format":
                    throw new ConfigurationException($"-object secret: format={text} is unknown; give raw or base64");
                case "keyid" or "iv":
                    throw new ConfigurationException("-object secret: encrypted ones are not in this version; give a file that only you can read");
                default:
                    throw new ConfigurationException($"-object secret: unknown option \"{part}\"; there are id=, file=, data= and format=");
            }
        }

        if (string.IsNullOrEmpty(id))
            throw new ConfigurationException("-object secret: no id; give id=NAME");
        if (file is null == data is null)
            throw new ConfigurationException($"-object secret,id={id}: give either file=PATH or data=TEXT");
        var content = data is not null ? Encoding.UTF8.GetBytes(data) : Read(id, file!);
        if (isBase64)
        {
            try
            {
                content = Convert.FromBase64String(Encoding.Latin1.GetString(content));
            }
            catch (FormatException e)
            {
                throw new ConfigurationException($"-object secret,id={id}: this is not base64; leave format= out for plain text", e);
            }
        }

        return new Secret(id) { Data = content };
    }

    /// <exception cref="ConfigurationException">No such secret.</exception>
    public static Secret Find(IEnumerable<Secret> secrets, string id, string user) =>
        secrets.FirstOrDefault(s => s.Id == id) ?? throw new ConfigurationException($"{user}: there is no secret \"{id}\"; give -object secret,id={id},file=PATH");

    private static byte[] Read(string id, string path)
    {
        try
        {
            using var file = File.OpenRead(path);
            var content = new byte[MaximumSize + 1];
            var length = file.ReadAtLeast(content, content.Length, throwOnEndOfStream: false);
            if (length > MaximumSize)
                throw new ConfigurationException($"-object secret,id={id}: {path} is larger than {MaximumSize} bytes; is it the right file?");
            if (length > 0 && content[length - 1] == '\n')
                length--;
            if (length > 0 && content[length - 1] == '\r')
                length--;
            return content[..length];
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new ConfigurationException($"-object secret,id={id}: cannot read {path}: {e.Message.TrimEnd('.')}; check the path", e);
        }
    }
}
