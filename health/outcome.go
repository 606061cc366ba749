package health

import (
	"fmt"
	"sync/atomic"

	"github.com/stickylb/stickylb/balancer"
)

// OutcomeStatus counts live requests and tunnels that ended with the same result.
type OutcomeStatus struct {
	Class  string `json:"class"`            // the [balancer.Class], in words
	Status string `json:"status,omitempty"` // such as "2xx"; empty: there was no answer
	Count  int64  `json:"count"`            // since Run began
}

// outcomes counts by class, and by the first digit of the status.
type outcomes [balancer.Unjudged + 1][6]atomic.Int64

func (c *outcomes) add(o balancer.Outcome) {
	if int(o.Class) >= len(c) {
		return // a class that this package does not know
	}
	digit := o.Status / 100
	if digit < 0 || digit >= len(c[0]) {
		digit = 0
	}
	c[o.Class][digit].Add(1)
}

// sum returns the number of all outcomes.
func (c *outcomes) sum() (n int64) {
	for class := range c {
		for digit := range c[class] {
			n += c[class][digit].Load()
		}
	}
	return n
}

// status returns the counts that are not zero.
func (c *outcomes) status() []OutcomeStatus {
	var all []OutcomeStatus
	for class := range c {
		for digit := range c[class] {
			n := c[class][digit].Load()
			if n == 0 {
				continue
			}
			s := OutcomeStatus{Class: balancer.Class(class).String(), Count: n}
			if digit > 0 {
				s.Status = fmt.Sprintf("%dxx", digit)
			}
			all = append(all, s)
		}
	}
	return all
}
