package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"
)

// greylist reads a triplet's record, decides and writes it, atomically: a new triplet is deferred, one that waited passes.
const greylist = `
local now = tonumber(ARGV[1])
local known = redis.call('HMGET', KEYS[1], 'first', 'passed')
if not known[1] then
  redis.call('HSET', KEYS[1], 'first', now, 'last', now, 'passed', 0)
  redis.call('EXPIRE', KEYS[1], 172800)
  return 0
end
if known[2] == '1' or now - tonumber(known[1]) >= 300 then
  redis.call('HSET', KEYS[1], 'last', now, 'passed', 1)
  redis.call('EXPIRE', KEYS[1], 3024000)
  return 1
end
redis.call('HSET', KEYS[1], 'last', now)
return 0
`

// redis has a connection to the primary of its own, and so a request in flight. One request: a script call a key, one after
// the other without waiting, then, in mode rmw, WAIT until one replica has them all; mode alone does without.
type redis struct {
	connection *tls.Conn
	out        *bufio.Writer
	in         *bufio.Reader
	script     string
	wait       bool
}

func openRedis(o options) ([]checker, error) {
	config, err := o.trust()
	if err != nil {
		return nil, err
	}
	checkers := make([]checker, o.inFlight)
	for i := range checkers {
		connection, err := tls.Dial("tcp", o.endpoints[0], config)
		if err != nil {
			return nil, err
		}
		r := &redis{connection: connection, out: bufio.NewWriter(connection), in: bufio.NewReader(connection), wait: o.mode == "rmw"}
		r.send("SCRIPT", "LOAD", greylist)
		if err := r.out.Flush(); err != nil {
			return nil, err
		}
		if r.script, err = r.reply(); err != nil {
			return nil, err
		}
		checkers[i] = r
	}
	return checkers, nil
}

func (r *redis) send(words ...string) {
	fmt.Fprintf(r.out, "*%d\r\n", len(words))
	for _, word := range words {
		fmt.Fprintf(r.out, "$%d\r\n%s\r\n", len(word), word)
	}
}

func (r *redis) reply() (string, error) {
	line, err := r.in.ReadString('\n')
	if err != nil {
		return "", err
	}
	text := line[1 : len(line)-2]
	switch line[0] {
	case '-':
		return "", errors.New(text)
	case '$':
		length, err := strconv.Atoi(text)
		if err != nil {
			return "", err
		}
		body := make([]byte, length+2)
		_, err = io.ReadFull(r.in, body)
		return string(body[:length]), err
	}
	return text, nil
}

func (r *redis) check(ctx context.Context, keys []string) (int, error) {
	deadline, _ := ctx.Deadline()
	if err := r.connection.SetDeadline(deadline); err != nil {
		return 0, err
	}
	now := strconv.FormatInt(time.Now().Unix(), 10)
	for _, key := range keys {
		r.send("EVALSHA", r.script, "1", key, now)
	}
	if r.wait {
		r.send("WAIT", "1", "0")
	}
	if err := r.out.Flush(); err != nil {
		return 0, err
	}
	conflicts := 0
	for range keys {
		told, err := r.reply()
		if err != nil {
			return 0, err
		}
		if told != "0" { // every key is new
			conflicts++
		}
	}
	if r.wait {
		replicas, err := r.reply()
		if err != nil {
			return 0, err
		}
		if replicas == "0" {
			return 0, errors.New("no replica has it")
		}
	}
	return conflicts, nil
}
