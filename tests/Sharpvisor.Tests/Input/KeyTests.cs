using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Input;
using Sharpvisor.Input;

namespace Sharpvisor.Tests.Input;

public sealed class KeyTests
{
    [Theory]
    [InlineData('a', Key.A, false)]
    [InlineData('Z', Key.Z, true)]
    [InlineData('0', Key.D0, false)]
    [InlineData(')', Key.D0, true)]
    [InlineData('!', Key.D1, true)]
    [InlineData('(', Key.D9, true)]
    [InlineData('\n', Key.Enter, false)]
    [InlineData('|', Key.Backslash, true)]
    [InlineData('"', Key.Apostrophe, true)]
    [InlineData('?', Key.Slash, true)]
    [InlineData('~', Key.Grave, true)]
    public void Characters_have_keys(char character, Key key, bool shift)
    {
        Assert.True(UsLayout.TryGetKey(character, out var found, out var shifted));
        Assert.Equal((key, shift), (found, shifted));
    }

    [Fact]
    public void All_of_ASCII_can_be_typed_and_no_two_characters_alike()
    {
        var seen = new HashSet<(Key, bool)>();
        for (var c = ' '; c <= '~'; c++)
        {
            Assert.True(UsLayout.TryGetKey(c, out var key, out var shift), $"{c}");
            Assert.True(seen.Add((key, shift)), $"{c}");
        }

        Assert.False(UsLayout.TryGetKey('é', out _, out _));
    }

    [Fact]
    public void Names_are_those_of_QEMU()
    {
        Assert.Equal([Key.LeftControl, Key.LeftAlt, Key.Delete], KeyNames.ParseCombination("ctrl-alt-delete"));
        Assert.Equal([Key.Keypad7, Key.F12, Key.Enter, Key.X], KeyNames.ParseCombination("kp_7-f12-ret-x"));
        Assert.Contains("\"foo\"", Assert.Throws<ConfigurationException>(() => KeyNames.Parse("foo")).Message, StringComparison.Ordinal);
    }
}
