using System.Text.Json;
using Sharpvisor.Servers.Control;

namespace Sharpvisor.Servers.Qmp;

/// <summary>The arguments of a command. What is missing, of another type or not known is refused with QEMU's words.</summary>
internal readonly struct QmpArguments(JsonElement? element, string prefix = "")
{
    public bool Has(string name) => Find(name) is not null;

    public string String(string name) => OptionalString(name) ?? throw Missing(name);

    public string? OptionalString(string name) => Find(name) switch
    {
        null => null,
        { ValueKind: JsonValueKind.String } text => text.GetString(),
        _ => throw Wrong(name, "string"),
    };

    public long Integer(string name) => OptionalInteger(name) ?? throw Missing(name);

    public long? OptionalInteger(string name) => Find(name) switch
    {
        null => null,
        { ValueKind: JsonValueKind.Number } number when number.TryGetInt64(out var value) => value,
        { ValueKind: JsonValueKind.Number } number when number.TryGetUInt64(out var value) => unchecked((long)value),
        _ => throw Wrong(name, "integer"),
    };

    public bool Boolean(string name, bool otherwise) => Find(name) switch
    {
        null => otherwise,
        { ValueKind: JsonValueKind.True } => true,
        { ValueKind: JsonValueKind.False } => false,
        _ => throw Wrong(name, "boolean"),
    };

    public bool Required(string name) => Has(name) ? Boolean(name, false) : throw Missing(name);

    public QmpArguments Object(string name) => Find(name) switch
    {
        null => throw Missing(name),
        { ValueKind: JsonValueKind.Object } value => new QmpArguments(value, $"{prefix}{name}."),
        _ => throw Wrong(name, "object"),
    };

    public IReadOnlyList<QmpArguments> Objects(string name)
    {
        var array = Find(name) ?? throw Missing(name);
        if (array.ValueKind != JsonValueKind.Array)
            throw Wrong(name, "array");
        var items = new List<QmpArguments>();
        foreach (var item in array.EnumerateArray())
        {
            if (item.ValueKind != JsonValueKind.Object)
                throw Wrong($"{name}[{items.Count}]", "object");
            items.Add(new QmpArguments(item, $"{prefix}{name}[{items.Count}]."));
        }

        return items;
    }

    public IReadOnlyList<string> Strings(string name)
    {
        var array = Find(name) ?? throw Missing(name);
        return array.ValueKind == JsonValueKind.Array && array.EnumerateArray().All(i => i.ValueKind == JsonValueKind.String)
            ? [.. array.EnumerateArray().Select(i => i.GetString()!)]
            : throw Wrong(name, "array of strings");
    }

    /// <summary>A list that may be left out, and of which nothing can be had.</summary>
    public void RequireEmptyList(string name, string otherwise)
    {
        if (Find(name) is not { } list)
            return;
        if (list.ValueKind != JsonValueKind.Array)
            throw Wrong(name, "array");
        if (list.GetArrayLength() > 0)
            throw new ControlException(otherwise);
    }

    /// <summary>One of some words.</summary>
    public string? Word(string name, params ReadOnlySpan<string> words)
    {
        var text = OptionalString(name);
        return text is null || words.Contains(text) ? text : throw new ControlException($"Parameter '{prefix}{name}' does not accept value '{text}'");
    }

    /// <summary>Refuses what is not among the names that a command knows.</summary>
    public void Check(IReadOnlyList<string> known)
    {
        if (element is not { } all)
            return;
        foreach (var member in all.EnumerateObject())
        {
            if (!known.Contains(member.Name))
                throw new ControlException($"Parameter '{prefix}{member.Name}' is unexpected");
        }
    }

    private JsonElement? Find(string name) => element is { } all && all.TryGetProperty(name, out var value) ? value : null;

    private ControlException Missing(string name) => new($"Parameter '{prefix}{name}' is missing");

    private ControlException Wrong(string name, string type) => new($"Invalid parameter type for '{prefix}{name}', expected: {type}");
}
