package classic

import (
	"regexp"
	"slices"
)

var tagText = regexp.MustCompile(`^[\p{L}\p{Z}\p{N}_.:/=+\-@]*$`)

// mergeTags returns the tags with those that are added, which replace tags with their keys.
func mergeTags(tags, added []Tag) ([]Tag, *Fault) {
	merged := append([]Tag{}, tags...)
	seen := make(map[string]bool)
	for _, t := range added {
		n := len([]rune(t.Key))
		switch {
		case seen[t.Key]:
			return nil, NewFault("DuplicateTagKeys", "The tag %q is there twice.", t.Key)
		case n < 1 || n > 128 || len([]rune(t.Value)) > 256 || !tagText.MatchString(t.Key) || !tagText.MatchString(t.Value):
			return nil, NewFault(ValidationError, "The tag %q has a key or value that is too long or has other characters than allowed.", t.Key)
		}
		seen[t.Key] = true
		if i := slices.IndexFunc(merged, func(m Tag) bool { return m.Key == t.Key }); i >= 0 {
			merged[i] = t
		} else {
			merged = append(merged, t)
		}
	}
	if len(merged) > maxTags {
		return nil, NewFault("TooManyTags", "A load balancer has no more than %d tags.", maxTags)
	}
	return merged, nil
}

type addTagsInput struct {
	LoadBalancerNames []string `query:"required"`
	Tags              []Tag    `query:"required"`
}

func addTags(c *call, in *addTagsInput) (any, *Fault) {
	return nil, c.changeAll(in.LoadBalancerNames, func(b *LoadBalancer) (err *Fault) {
		b.Tags, err = mergeTags(b.Tags, in.Tags)
		return err
	})
}

// changeAll changes each of the load balancers, or none.
func (c *call) changeAll(names []string, edit func(b *LoadBalancer) *Fault) *Fault {
	for _, name := range names {
		if err := c.change(name, edit); err != nil {
			return err
		}
	}
	return nil
}

type tagKey struct {
	Key string `query:"required"`
}

type removeTagsInput struct {
	LoadBalancerNames []string `query:"required"`
	Tags              []tagKey `query:"required"`
}

func removeTags(c *call, in *removeTagsInput) (any, *Fault) {
	return nil, c.changeAll(in.LoadBalancerNames, func(b *LoadBalancer) *Fault {
		b.Tags = slices.DeleteFunc(slices.Clone(b.Tags), func(t Tag) bool { return slices.Contains(in.Tags, tagKey{t.Key}) })
		return nil
	})
}

type describeTagsInput struct {
	LoadBalancerNames []string `query:"required"`
}

type describeTagsOutput struct{ TagDescriptions []TagDescription }

func describeTags(c *call, in *describeTagsInput) (any, *Fault) {
	if n := len(in.LoadBalancerNames); n < 1 || n > 20 {
		return nil, NewFault(ValidationError, "The call has to name 1 to 20 load balancers.")
	}
	out := describeTagsOutput{TagDescriptions: []TagDescription{}}
	for _, name := range unique(in.LoadBalancerNames) {
		b, err := c.find(name)
		if err != nil {
			return nil, err
		}
		out.TagDescriptions = append(out.TagDescriptions, TagDescription{name, b.Tags})
	}
	return out, nil
}
