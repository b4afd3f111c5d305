namespace Sharpvisor.Cpu.Cpuid;

/// <summary>A set of features that keeps to what stands on what.</summary>
internal sealed class FeatureSet
{
    private readonly uint[] _words = new uint[(int)FeatureWord.Count];

    public uint this[FeatureWord word] => _words[(int)word];

    public bool Has(CpuFeature feature) => (_words[(int)feature >> 5] >> ((int)feature & 31) & 1) != 0;

    /// <summary>Adds a feature and what it requires.</summary>
    public void Add(CpuFeature feature)
    {
        _words[(int)feature >> 5] |= 1u << (int)feature;
        foreach (var info in FeatureCatalog.All)
        {
            if (info.Feature == feature && info.Requires is { } required && !Has(required))
                Add(required);
        }
    }

    /// <summary>Removes a feature and what requires it.</summary>
    public void Remove(CpuFeature feature)
    {
        _words[(int)feature >> 5] &= ~(1u << (int)feature);
        foreach (var info in FeatureCatalog.All)
        {
            if (info.Requires == feature && Has(info.Feature))
                Remove(info.Feature);
        }
    }
}
