package main

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"

	"github.com/stickylb/stickylb/balancer"
)

// maxURL limits the length of a backend's URL, which sessions carry in their cookie.
const maxURL = 512

// Backends are what the list of a frontend says.
type backends struct {
	id      string   // of the virtual host, the list's first element
	urls    []string // the rest of the list
	targets []balancer.Target
	indexes map[string][]int // of a target's ID in urls
	broken  []error          // URLs that cannot be used
}

// parse parses a list. A target's ID is its URL, so that it keeps its sessions when the list
// changes its order. A URL that is in the list several times has that weight.
func parse(list []string) *backends {
	b := &backends{indexes: map[string][]int{}}
	if len(list) == 0 {
		return b
	}
	b.id, b.urls = list[0], list[1:]
	for i, text := range b.urls {
		t, err := target(text)
		if err != nil {
			b.broken = append(b.broken, fmt.Errorf("backend %d: %w", i, err))
			continue
		}
		if b.indexes[t.ID] = append(b.indexes[t.ID], i); len(b.indexes[t.ID]) == 1 {
			b.targets = append(b.targets, t)
		}
	}
	for i := range b.targets {
		b.targets[i].Weight = len(b.indexes[b.targets[i].ID])
	}
	return b
}

// target returns the target of a backend's URL.
func target(text string) (balancer.Target, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return balancer.Target{}, withoutURL(err)
	case len(text) > maxURL:
		return balancer.Target{}, fmt.Errorf("the URL has more than %d bytes", maxURL)
	case u.Scheme == "tcp":
		return balancer.Target{}, errors.New("the URL is not for HTTP")
	}
	normal, err := balancer.Normalize(balancer.Target{URL: u})
	if err != nil {
		return balancer.Target{}, err
	}
	t := normal[0]
	t.ID = t.URL.String()
	return t, nil
}

// withoutURL returns an error without the URL that could not be parsed: it may have a password.
func withoutURL(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}

// deadTargets returns the IDs of the targets whose index is in a dead set. Members of the set that
// are not an index of the list are ignored.
func (b *backends) deadTargets(dead []string) map[string]bool {
	at := map[int]bool{}
	for _, text := range dead {
		if i, err := strconv.Atoi(text); err == nil {
			at[i] = true
		}
	}
	ids := map[string]bool{}
	for id, indexes := range b.indexes {
		for _, i := range indexes {
			ids[id] = ids[id] || at[i]
		}
	}
	return ids
}
