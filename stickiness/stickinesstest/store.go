package stickinesstest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/stickylb/stickylb/stickiness"
)

// TestStore tests sessions with s, and returns all violations of the contract of
// [stickiness.Store], joined into one error. If s is a [stickiness.Claimer] or [stickiness.Finder],
// TestStore tests those contracts too. It calls pass to let time pass for the store. In a bubble of
// testing/synctest pass is time.Sleep. For a store with its own clock, pass advances that clock.
// The durations add up to some minutes. A nil pass leaves out the checks that depend on time.
//
// The keys are random, so the store may be in use. It must have room for 1,000 sessions.
func TestStore(s stickiness.Store, pass func(time.Duration)) error {
	c := &storeChecker{store: s, prefix: rand.Text() + "-"}
	checks := []func(){c.bind, c.keys, c.many, c.concurrent, c.ended}
	if pass != nil {
		c.pass = pass
		checks = append(checks, c.expiry, c.extension)
	}
	if claimer, ok := s.(stickiness.Claimer); ok {
		c.claimer = claimer
		checks = append(checks, c.claims, c.claimsAtOnce, c.claimsThatEnd)
	}
	for _, check := range checks {
		check()
	}
	return errors.Join(c.errs...)
}

const ttl = time.Minute

type storeChecker struct {
	store   stickiness.Store
	claimer stickiness.Claimer // the store, or nil
	prefix  string
	pass    func(time.Duration) // or nil

	mu   sync.Mutex
	errs []error
}

func (c *storeChecker) errorf(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.errs = append(c.errs, fmt.Errorf("stickinesstest: "+format, args...))
}

func (c *storeChecker) put(key, target string, ttl time.Duration) {
	if err := c.store.Put(context.Background(), c.prefix+key, target, ttl); err != nil {
		c.errorf("Put of %q: %w", key, err)
	}
}

// want checks which target a session is bound to. Empty means none.
func (c *storeChecker) want(when, key, target string, ttl time.Duration) {
	got, ok, err := c.store.Get(context.Background(), c.prefix+key, ttl)
	switch {
	case err != nil:
		c.errorf("%s: Get of %q: %w", when, key, err)
	case ok != (target != "") || got != target:
		c.errorf("%s: Get of %q returns %q, %v; want %q", when, key, got, ok, target)
	}
	finder, is := c.store.(stickiness.Finder)
	if !is {
		return
	}
	switch found, from, ok, err := finder.Find(context.Background(), c.prefix+key, ttl); {
	case err != nil:
		c.errorf("%s: Find of %q: %w", when, key, err)
	case ok != (target != "") || found != target || from == stickiness.Remembered:
		c.errorf("%s: Find of %q returns %q, %q, %v; want %q", when, key, found, from, ok, target)
	}
}

// wantClaim claims a session for a target, and checks which target has it then.
func (c *storeChecker) wantClaim(when, key, target, winner string) {
	switch got, err := c.claimer.Claim(context.Background(), c.prefix+key, target, ttl); {
	case err != nil:
		c.errorf("%s: Claim of %q: %w", when, key, err)
	case got != winner:
		c.errorf("%s: Claim of %q for %q returns %q, want %q", when, key, target, got, winner)
	}
}

func (c *storeChecker) bind() {
	c.want("at first", "a", "", ttl)
	c.want("after a Get", "a", "", ttl)
	c.put("a", "app-1", ttl)
	c.want("after Put", "a", "app-1", ttl)
	c.want("after Put and Get", "a", "app-1", ttl)
	c.put("a", "app-2", ttl)
	c.want("after another Put", "a", "app-2", ttl)
	c.want("beside a session", "b", "", ttl)
}

func (c *storeChecker) keys() {
	keys := []string{"k", "K", "k ", "k:1", "k/1", "k*", "k%00", "kk"}
	for i, key := range keys {
		c.put(key, fmt.Sprint("app-", i), ttl)
	}
	for i, key := range keys {
		c.want("keys that are alike", key, fmt.Sprint("app-", i), ttl)
	}
}

func (c *storeChecker) many() {
	for i := range 500 {
		c.put(fmt.Sprint("many", i), fmt.Sprint("app-", i%7), ttl)
	}
	for i := range 500 {
		c.want("many sessions", fmt.Sprint("many", i), fmt.Sprint("app-", i%7), ttl)
	}
}

func (c *storeChecker) concurrent() {
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			own, target := fmt.Sprint("own", i), fmt.Sprint("app-", i)
			for range 50 {
				c.put(own, target, ttl)
				c.put("shared", target, ttl)
				c.want("concurrently", own, target, ttl)
				if _, ok, err := c.store.Get(context.Background(), c.prefix+"shared", ttl); !ok || err != nil {
					c.errorf("concurrently: a session is lost: %v", err)
				}
			}
		})
	}
	wg.Wait()
}

// ended makes calls with a context that has ended. They may return an error. Without an error, the
// result must be right.
func (c *storeChecker) ended() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	c.put("ended", "app-1", ttl)
	if got, ok, err := c.store.Get(ctx, c.prefix+"ended", ttl); err == nil && (!ok || got != "app-1") {
		c.errorf("Get with an ended context returns %q, %v, and no error", got, ok)
	}
	if err := c.store.Put(ctx, c.prefix+"ended", "app-2", ttl); err == nil {
		c.want("after a Put with an ended context that returned no error", "ended", "app-2", ttl)
	}
}

func (c *storeChecker) expiry() {
	c.put("short", "app-1", ttl)
	c.put("long", "app-2", 2*ttl)
	c.put("moved", "app-1", 2*ttl)
	c.put("moved", "app-2", ttl)
	c.pass(ttl + time.Second)
	c.want("after its time", "short", "", ttl)
	c.want("after the shorter time of a second Put", "moved", "", ttl)
	c.want("before its time", "long", "app-2", ttl)
	c.put("short", "app-3", ttl)
	c.want("after its time and another Put", "short", "app-3", ttl)
}

func (c *storeChecker) extension() {
	c.put("used", "app-1", ttl)
	c.put("bound", "app-1", ttl)
	c.put("idle", "app-1", ttl)
	for range 3 {
		c.pass(ttl - 2*time.Second)
		c.want("used all the time", "used", "app-1", ttl)
		c.put("bound", "app-2", ttl)
	}
	c.want("bound all the time", "bound", "app-2", ttl)
	c.want("never used", "idle", "", ttl)

	c.put("rushed", "app-1", 2*ttl)
	c.want("Get with a shorter time", "rushed", "app-1", time.Second)
	c.pass(ttl)
	c.want("before its time, after a Get with a shorter time", "rushed", "app-1", time.Second)
	c.pass(ttl + 2*time.Second)
	c.want("after all its time", "rushed", "", time.Second)
}

func (c *storeChecker) claims() {
	c.wantClaim("at first", "claimed", "app-1", "app-1")
	c.want("after Claim", "claimed", "app-1", ttl)
	c.wantClaim("after Claim", "claimed", "app-2", "app-1")
	c.wantClaim("after Claim for the same target", "claimed", "app-1", "app-1")
	c.want("after a second Claim", "claimed", "app-1", ttl)
	c.put("claimed", "app-3", ttl)
	c.wantClaim("after Put", "claimed", "app-1", "app-3")
	c.want("after Put and Claim", "claimed", "app-3", ttl)

	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if winner, err := c.claimer.Claim(ctx, c.prefix+"claimed", "app-4", ttl); err == nil && winner != "app-3" {
		c.errorf("Claim with an ended context returns %q and no error", winner)
	}
}

// claimsAtOnce claims one session for different targets at the same time.
func (c *storeChecker) claimsAtOnce() {
	for i := range 20 {
		key := fmt.Sprint("contested", i)
		var winners [4]string
		var wg sync.WaitGroup
		for j := range winners {
			wg.Go(func() {
				var err error
				if winners[j], err = c.claimer.Claim(context.Background(), c.prefix+key, fmt.Sprint("app-", j), ttl); err != nil {
					c.errorf("at once: Claim of %q: %w", key, err)
				}
			})
		}
		wg.Wait()
		for _, w := range winners {
			if w != winners[0] {
				c.errorf("at once: Claim of %q returns %q and %q", key, winners[0], w)
			}
		}
		c.want("after several claims at once", key, winners[0], ttl)
	}
}

func (c *storeChecker) claimsThatEnd() {
	if c.pass == nil {
		return
	}
	c.put("ending", "app-1", ttl)
	c.wantClaim("before the end", "claimed for a time", "app-1", "app-1")
	c.pass(ttl + time.Second)
	c.want("after the time of Claim", "claimed for a time", "", ttl)
	c.wantClaim("after its time", "ending", "app-2", "app-2")
	c.want("after its time and a Claim", "ending", "app-2", ttl)
}
