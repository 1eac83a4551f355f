// Command client is the native load client of all rivals: a closed loop of greylist checks.
//
// One run measures one cell: it prints "begin" when the measured time begins and "end" when it ends, so that the caller can
// read the servers' counters, then one JSON line. Keys are new in every check. What a check is on each peer stands in its
// file: etcd.go, redis.go, postgres.go, policy.go.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	requestTimeout = 10 * time.Second
	recordBytes    = 48 // about what a greylist record packs to: first, last, expires, passed, counters
)

// options of one run.
type options struct {
	endpoints     []string // host:port; connections are dealt to them in turn
	mode          string   // what a check is: see the peer's file
	inFlight      int      // requests
	connections   int
	batch         int // checks a request, in the modes that have it
	ca, cert, key string
}

// peer opens one checker for each request in flight.
type peer func(options) ([]checker, error)

// checker makes one request at a time: a check for each of keys. It returns how many found that somebody else was faster.
type checker interface {
	check(ctx context.Context, keys []string) (conflicts int, err error)
}

var peers = map[string]peer{"etcd": openEtcd, "redis": openRedis, "postgres": openPostgres, "policy": openPolicy}

// result is what one run prints. Latencies are microseconds of one request; every check of a batch shares its request's.
type result struct {
	Checks       int64      `json:"checks"`
	Seconds      float64    `json:"seconds"`
	Microseconds [][2]int64 `json:"microseconds"` // latency, rounded to 1 %; requests
	Conflicts    int64      `json:"conflicts"`
	Errors       int64      `json:"errors"`
	LastError    string     `json:"last_error,omitempty"`
	CPU          float64    `json:"cpu_seconds"`
}

// worker is one request in flight.
type worker struct {
	checker   checker
	batch     int
	prefix    string
	number    int
	next      int
	latencies []int64
	conflicts int64
	errors    int64
	lastError string
}

// keys are new triplets each time, as long as real ones.
func (w *worker) keys() []string {
	keys := make([]string, w.batch)
	for i := range keys {
		w.next++
		keys[i] = fmt.Sprintf("192.0.2.0/24/%s-%d-%d@sender.example/recipient@example.test", w.prefix, w.number, w.next)
	}
	return keys
}

// run loops until stop is set; what is answered within the measured time counts.
func (w *worker) run(measuring, stop *atomic.Bool) {
	for !stop.Load() {
		keys := w.keys()
		begun := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
		conflicts, err := w.checker.check(ctx, keys)
		cancel()
		if err != nil {
			w.errors++
			w.lastError = err.Error()
			time.Sleep(10 * time.Millisecond)
			continue
		}
		w.conflicts += int64(conflicts)
		if measuring.Load() && !stop.Load() {
			w.latencies = append(w.latencies, time.Since(begun).Microseconds())
		}
	}
}

// record is a value as long as a greylist record.
func record(key string) []byte {
	made := make([]byte, recordBytes)
	copy(made, key[len(key)/3:])
	return made
}

func (o options) trust() (*tls.Config, error) {
	root, err := os.ReadFile(o.ca)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(root)
	pair, err := tls.LoadX509KeyPair(o.cert, o.key)
	if err != nil {
		return nil, err
	}
	return &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}, ServerName: "localhost", MinVersion: tls.VersionTLS12}, nil
}

func cpuSeconds() float64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic(err)
	}
	return float64(usage.Utime.Nano()+usage.Stime.Nano()) / 1e9
}

// histogram counts latencies, each rounded to two digits behind its first.
func histogram(latencies []int64) [][2]int64 {
	counts := map[int64]int64{}
	for _, latency := range latencies {
		unit := int64(1)
		for latency/unit >= 1000 {
			unit *= 10
		}
		counts[(latency+unit/2)/unit*unit]++
	}
	rows := make([][2]int64, 0, len(counts))
	for latency, count := range counts {
		rows = append(rows, [2]int64{latency, count})
	}
	sort.Slice(rows, func(i, j int) bool { return rows[i][0] < rows[j][0] })
	return rows
}

func fail(code int, err error) {
	fmt.Fprintln(os.Stderr, "client:", err)
	os.Exit(code)
}

func main() {
	var o options
	name := flag.String("peer", "", "etcd, redis, postgres or policy")
	endpoints := flag.String("endpoints", "", "host:port, comma separated")
	seconds := flag.Float64("seconds", 3, "measured time")
	warmUp := flag.Float64("warmup", 0.5, "time before it")
	prefix := flag.String("prefix", "", "makes this run's keys new")
	flag.StringVar(&o.mode, "mode", "rmw", "what a check is")
	flag.IntVar(&o.batch, "batch", 1, "checks a request")
	flag.IntVar(&o.inFlight, "inflight", 1, "requests in flight")
	flag.IntVar(&o.connections, "connections", 1, "connections; requests are dealt to them in turn")
	flag.StringVar(&o.ca, "ca", "", "root certificate")
	flag.StringVar(&o.cert, "cert", "", "client certificate")
	flag.StringVar(&o.key, "key", "", "client key")
	flag.Parse()
	o.endpoints = strings.Split(*endpoints, ",")

	open, known := peers[*name]
	if !known {
		fail(2, fmt.Errorf("there is no peer %q", *name))
	}
	checkers, err := open(o)
	if err != nil {
		fail(3, fmt.Errorf("cannot connect: %w", err))
	}

	var measuring, stop atomic.Bool
	var running sync.WaitGroup
	workers := make([]*worker, o.inFlight)
	for i := range workers {
		workers[i] = &worker{checker: checkers[i], batch: o.batch, prefix: *prefix, number: i}
		running.Add(1)
		go func(w *worker) {
			defer running.Done()
			w.run(&measuring, &stop)
		}(workers[i])
	}
	time.Sleep(time.Duration(*warmUp * float64(time.Second)))
	cpu := cpuSeconds()
	fmt.Println("begin")
	begun := time.Now()
	measuring.Store(true)
	time.Sleep(time.Duration(*seconds * float64(time.Second)))
	stop.Store(true)
	elapsed := time.Since(begun)
	fmt.Println("end")
	cpu = cpuSeconds() - cpu
	running.Wait()

	out := result{Seconds: elapsed.Seconds(), CPU: cpu}
	var latencies []int64
	for _, w := range workers {
		latencies = append(latencies, w.latencies...)
		out.Conflicts += w.conflicts
		out.Errors += w.errors
		if w.lastError != "" {
			out.LastError = w.lastError
		}
	}
	out.Checks = int64(len(latencies) * o.batch)
	out.Microseconds = histogram(latencies)
	if err := json.NewEncoder(os.Stdout).Encode(out); err != nil {
		fail(1, err)
	}
}
