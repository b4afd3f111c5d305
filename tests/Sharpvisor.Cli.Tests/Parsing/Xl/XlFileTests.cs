using Sharpvisor.Cli.Parsing.Xl;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Cli.Tests.Parsing.Xl;

public sealed class XlFileTests
{
    [Theory]
    [InlineData("a=1", "a=1")]
    [InlineData("a = 'x y' ; b=\"z\"", "a=x y b=z")]
    [InlineData("# remark\n\na = 0x10 # remark\nb=010\nc=-3", "a=16 b=8 c=-3")]
    [InlineData("a = [ 'x', \"y\", 3 ]", "a=[x y 3]")]
    [InlineData("a = [\n  'x,y=\"z\"', # first\n\n  'w',\n]\nb=2", "a=[x,y=\"z\" w] b=2")]
    [InlineData("a=[]\nb=[ [1,2], 'c' ]", "a=[] b=[[1 2] c]")]
    [InlineData(@"a = 'it\'s\\ '", @"a=it's\ ")]
    [InlineData("a = 'x # y'", "a=x # y")]
    [InlineData("a='1'\r\nb='2'\r\n", "a=1 b=2")]
    [InlineData("a=1\na=2", "a=2")]
    [InlineData("a=['x']\na += ['y']\nb='p'\nb+='q'", "a=[x y] b=pq")]
    [InlineData("a\t=\t1", "a=1")]
    [InlineData("", "")]
    public void Values(string text, string pairs) => Assert.Equal(pairs, string.Join(' ', XlFile.Parse("f", text).Select(p => $"{p.Key}={Show(p.Value)}")));

    [Fact]
    public void Lines_are_counted_within_lists()
    {
        var pairs = XlFile.Parse("f", "\na=[\n'x',\n'y' ]\nb=1\n");
        Assert.Equal([2, 5], pairs.Select(p => p.Line));
        Assert.Equal([3, 4], pairs[0].Value.Items.Select(i => i.Line));
    }

    [Theory]
    [InlineData("a", "f:1: a: no value")]
    [InlineData("a=", "f:1: a: the file ends without its value")]
    [InlineData("\na=x", "f:2: a: a value is a number, a string in quotes, or a list")]
    [InlineData("a=\nb=1", "f:1: a: a value is")]
    [InlineData("a='x", "f:1: a: the string has no end on its line")]
    [InlineData("a='x\n'", "f:1: a: the string has no end on its line")]
    [InlineData("a=['x'", "f:1: a: the list has no end")]
    [InlineData("a=['x' 'y']", "f:1: a: a comma is missing")]
    [InlineData("a=1 b=2", "f:1: a: something follows its value")]
    [InlineData("a=12z", "f:1: a: 12z is no number")]
    [InlineData("a=99999999999999999999", "f:1: a: 99999999999999999999 is no number")]
    [InlineData("a=09", "f:1: a: 09 is no number")]
    [InlineData("=1", "f:1: '=': a key is expected")]
    [InlineData("a=1\na+=['x']", "f:2: a: += adds a list to a list")]
    [InlineData("a=[[[[[[[[[1]]]]]]]]]", "f:1: a: lists in more than 8 lists")]
    public void Mistakes_name_file_and_line(string text, string error) =>
        Assert.StartsWith(error, Assert.Throws<ConfigurationException>(() => XlFile.Parse("f", text)).Message, StringComparison.Ordinal);

    [Fact]
    public void Any_text_is_a_file_or_a_mistake()
    {
        var random = new Random(8);
        const string letters = "ab=[]'\",;#\n\\ 019x+-";
        var files = 0;
        for (var i = 0; i < 20_000; i++)
        {
            var text = new string([.. Enumerable.Range(0, random.Next(24)).Select(_ => letters[random.Next(letters.Length)])]);
            try
            {
                XlFile.Parse("f", text);
                files++;
            }
            catch (ConfigurationException e)
            {
                Assert.Matches("^f:[0-9]+: ", e.Message);
            }
        }

        Assert.InRange(files, 1, 19_999);
    }

    [Fact]
    public void A_file_that_is_not_there()
    {
        var error = Assert.Throws<ConfigurationException>(() => XlFile.Read("/nowhere/vm.cfg")).Message;
        Assert.StartsWith("--xl /nowhere/vm.cfg: ", error, StringComparison.Ordinal);
    }

    private static string Show(XlValue value) => value.Text ?? $"[{string.Join(' ', value.Items.Select(Show))}]";
}
