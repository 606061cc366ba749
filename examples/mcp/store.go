package main

import (
	"fmt"
	"log"

	"github.com/redis/rueidis"

	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/stickiness/redisstore"
)

// newStore returns the store of the sessions: a Redis that several balancers may share, or memory.
func newStore(redis string) (store stickiness.Store, closeStore func(), err error) {
	if redis == "" {
		log.Print("no -redis: a restart of this balancer loses all sessions")
		return &stickiness.MemoryStore{}, func() {}, nil
	}
	client, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{redis}})
	if err != nil {
		return nil, nil, fmt.Errorf("-redis %s: %w", redis, err)
	}
	store, err = redisstore.New(client, redisstore.Options{})
	return store, client.Close, err
}
