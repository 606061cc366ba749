package balancer

import "math"

// A ladder keeps members, by slot, in the order of their load for their weight. It finds the least
// loaded one in constant time. The members of one weight are a class. A class has a rung for each
// load that one of its members has. The members on a rung form a ring, which begins with the one
// whose turn it is. Acquire and release move a member to a neighbouring rung.
//
// Classes that tie take turns by weight. Each has a virtual time at which its turn comes. A pick
// moves that time on by the inverse of the class's share.
type ladder struct {
	nodes   []node
	rungs   []rung
	free    int32 // the first free rung; they are linked by above
	classes []class
	best    []int32 // a tournament of the classes: the winner of all is at 1
	time    float64 // virtual time of the last pick
}

// none is the index of nothing.
const none = -1

// A node is a slot's place on the ladder.
type node struct {
	prev, next int32 // the ring
	rung       int32 // none: it is not on the ladder at present
	class      int32 // none: it never is
}

// A rung is the members of a class that have the same load.
type rung struct {
	load         int64
	first        int32 // the slot whose turn it is
	size         int32
	below, above int32
}

// A class is the members of one weight.
type class struct {
	weight float64
	bottom int32 // the least loaded rung, or none
	top    int32
	ratio  float64 // load for the weight on the bottom rung, or infinite
	turn   float64 // virtual time of the next pick
}

// newLadder returns a ladder for slots below n, none of which is on it yet.
func newLadder(n int) *ladder {
	l := &ladder{nodes: make([]node, n), free: none}
	for i := range l.nodes {
		l.nodes[i] = node{rung: none, class: none}
	}
	return l
}

// addClass adds a class and returns its index. All classes come before start.
func (l *ladder) addClass(weight int) int32 {
	l.classes = append(l.classes, class{
		weight: float64(weight), bottom: none, top: none, ratio: math.Inf(1),
	})
	return int32(len(l.classes) - 1)
}

// start sets up the tournament. It gives a turn to classes that have none yet: half a share from
// now, so that the turns of small classes do not all come at the end of a round.
func (l *ladder) start() {
	n := len(l.classes)
	l.best = make([]int32, 2*n)
	for i := range l.classes {
		if c := &l.classes[i]; c.turn == 0 && c.bottom != none {
			c.turn = l.time + l.share(c)/2
		}
		l.best[n+i] = int32(i)
	}
	for i := n - 1; i > 0; i-- {
		l.best[i] = l.better(l.best[2*i], l.best[2*i+1])
	}
}

// resume takes over the time of another ladder, and the turns of classes of the same
// weight. It comes before start.
func (l *ladder) resume(from *ladder) {
	l.time = from.time
	turns := make(map[float64]float64, len(from.classes))
	for i := range from.classes {
		turns[from.classes[i].weight] = from.classes[i].turn
	}
	for i := range l.classes {
		l.classes[i].turn = turns[l.classes[i].weight]
	}
}

// copyFrom makes l, which is new and for as many slots, a copy of another ladder, except for the
// tournament.
func (l *ladder) copyFrom(from *ladder) {
	copy(l.nodes, from.nodes)
	l.rungs = append(l.rungs, from.rungs...)
	l.classes = append(l.classes, from.classes...)
	l.free, l.time = from.free, from.time
}

// all yields the slots that are on the ladder, those of a rung in the order of their turns.
func (l *ladder) all(yield func(slot int32) bool) {
	for i := range l.classes {
		for r := l.classes[i].bottom; r != none; r = l.rungs[r].above {
			slot := l.rungs[r].first
			for range l.rungs[r].size {
				if !yield(slot) {
					return
				}
				slot = l.nodes[slot].next
			}
		}
	}
}

// share returns the virtual time between two picks of the class.
func (l *ladder) share(c *class) float64 {
	return 1 / (c.weight * float64(l.rungs[c.bottom].size))
}

func (l *ladder) better(i, j int32) int32 {
	a, b := &l.classes[i], &l.classes[j]
	if b.ratio < a.ratio || b.ratio == a.ratio && b.turn < a.turn {
		return j
	}
	return i
}

// replay runs the tournament again for one class.
func (l *ladder) replay(i int32) {
	for at := (int(i) + len(l.classes)) / 2; at > 0; at /= 2 {
		l.best[at] = l.better(l.best[2*at], l.best[2*at+1])
	}
}

// least returns the slot that is to be picked, or none.
func (l *ladder) least() int32 {
	if len(l.classes) == 0 {
		return none
	}
	c := &l.classes[l.winner()]
	if c.bottom == none {
		return none
	}
	return l.rungs[c.bottom].first
}

func (l *ladder) winner() int32 {
	if len(l.classes) == 1 {
		return 0
	}
	return l.best[1]
}

// pass gives the turn of the slot that least returned to the next one.
func (l *ladder) pass() {
	i := l.winner()
	c := &l.classes[i]
	r := &l.rungs[c.bottom]
	r.first = l.nodes[r.first].next
	if len(l.classes) > 1 {
		l.time = max(l.time, c.turn)
		c.turn = l.time + l.share(c)
		l.replay(i)
	}
}

// put sets the load of a slot that has a class. The slot's turn comes last among its equals.
func (l *ladder) put(slot int32, load int64) {
	n := &l.nodes[slot]
	if n.rung != none && l.rungs[n.rung].load == load {
		return
	}
	c := &l.classes[n.class]
	to := l.reach(c, n.rung, load)
	if n.rung != none {
		l.unlink(c, slot)
	}
	r := &l.rungs[to]
	if r.size == 0 {
		r.first, n.prev, n.next = slot, slot, slot
	} else {
		n.next = r.first
		n.prev = l.nodes[r.first].prev
		l.nodes[n.prev].next = slot
		l.nodes[n.next].prev = slot
	}
	n.rung = to
	r.size++
	l.rank(n.class)
}

// drop takes a slot off the ladder, if it is on it.
func (l *ladder) drop(slot int32) {
	n := &l.nodes[slot]
	if n.rung == none {
		return
	}
	l.unlink(&l.classes[n.class], slot)
	n.rung = none
	l.rank(n.class)
}

// rank brings the class's ratio up to date.
func (l *ladder) rank(i int32) {
	c := &l.classes[i]
	ratio := math.Inf(1)
	if c.bottom != none {
		ratio = float64(l.rungs[c.bottom].load) / c.weight
	}
	if ratio != c.ratio {
		c.ratio = ratio
		if len(l.best) > 2 {
			l.replay(i)
		}
	}
}

// reach returns the class's rung of that load and makes it if there is none. It searches from the
// rung at, or from either end if that is none.
func (l *ladder) reach(c *class, at int32, load int64) int32 {
	if c.bottom == none {
		r := l.newRung(load, none, none)
		c.bottom, c.top = r, r
		return r
	}
	if at == none {
		at = c.bottom
		if load-l.rungs[at].load > l.rungs[c.top].load-load {
			at = c.top
		}
	}
	for l.rungs[at].load > load && l.rungs[at].below != none {
		at = l.rungs[at].below
	}
	for l.rungs[at].load < load && l.rungs[at].above != none && l.rungs[l.rungs[at].above].load <= load {
		at = l.rungs[at].above
	}
	switch r := &l.rungs[at]; {
	case r.load == load:
		return at
	case r.load < load:
		return l.insert(c, load, at, r.above)
	default:
		return l.insert(c, load, none, at)
	}
}

// insert makes a rung between two, each of which may be none.
func (l *ladder) insert(c *class, load int64, below, above int32) int32 {
	r := l.newRung(load, below, above)
	if below == none {
		c.bottom = r
	} else {
		l.rungs[below].above = r
	}
	if above == none {
		c.top = r
	} else {
		l.rungs[above].below = r
	}
	return r
}

func (l *ladder) newRung(load int64, below, above int32) int32 {
	r := l.free
	if r == none {
		r = int32(len(l.rungs))
		l.rungs = append(l.rungs, rung{})
	} else {
		l.free = l.rungs[r].above
	}
	l.rungs[r] = rung{load: load, below: below, above: above}
	return r
}

// unlink takes a slot out of its ring, and an empty rung off the ladder.
func (l *ladder) unlink(c *class, slot int32) {
	n := &l.nodes[slot]
	r := &l.rungs[n.rung]
	if r.size--; r.size > 0 {
		l.nodes[n.prev].next = n.next
		l.nodes[n.next].prev = n.prev
		if r.first == slot {
			r.first = n.next
		}
		return
	}
	if r.below == none {
		c.bottom = r.above
	} else {
		l.rungs[r.below].above = r.above
	}
	if r.above == none {
		c.top = r.below
	} else {
		l.rungs[r.above].below = r.below
	}
	r.above, l.free = l.free, n.rung
}
