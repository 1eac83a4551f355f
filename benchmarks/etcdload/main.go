// Command etcdload is the native load client for etcd: a closed loop of greylist checks over gRPC and mutual TLS.
//
// It speaks etcd's KV service itself instead of going through etcd's own client library, because it wants exactly
// -connections connections, each to an endpoint that it chose. One run measures one cell: it prints "begin" when the
// measured time begins and "end" when it ends, so that the caller can read the servers' counters, then one JSON line.
//
// Modes, all with keys that are 100 % new:
//
//	rmw    one check: read the record (linearizable), then a transaction that writes it if it is still as it was read
//	create one check: a transaction that writes the record if there is none and else reads it. It decides about new
//	       keys with one request; a key that is there would need a second one, so this flatters etcd
//	batch  -batch checks in one transaction of unseen writes; what a client that collects checks could reach
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

	pb "go.etcd.io/etcd/etcdserver/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

const (
	requestTimeout = 10 * time.Second
	recordBytes    = 48 // about what a greylist record packs to: first, last, expires, passed, counters
)

// result is what one run prints. Latencies are microseconds of one request; every check of a batch shares its request's.
type result struct {
	Checks    int64   `json:"checks"`
	Seconds   float64 `json:"seconds"`
	P50       int64   `json:"p50_us"`
	P99       int64   `json:"p99_us"`
	Max       int64   `json:"max_us"`
	Conflicts int64   `json:"conflicts"`
	Errors    int64   `json:"errors"`
	LastError string  `json:"last_error,omitempty"`
	CPU       float64 `json:"cpu_seconds"`
}

// worker is one request in flight.
type worker struct {
	kv        pb.KVClient
	mode      string
	batch     int
	prefix    string
	number    int
	next      int
	latencies []int64
	conflicts int64
	errors    int64
	lastError string
}

// key is a new triplet each time, as long as a real one.
func (w *worker) key() []byte {
	w.next++
	return []byte(fmt.Sprintf("greylist/192.0.2.0/24/%s-%d-%d@sender.example/recipient@example.test", w.prefix, w.number, w.next))
}

func put(key []byte) *pb.RequestOp {
	record := make([]byte, recordBytes)
	copy(record, key[len(key)/3:])
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: key, Value: record}}}
}

// unchanged is true while the key was last modified at revision; 0 means that there is no such key.
func unchanged(key []byte, revision int64) *pb.Compare {
	return &pb.Compare{
		Result: pb.Compare_EQUAL, Target: pb.Compare_MOD, Key: key,
		TargetUnion: &pb.Compare_ModRevision{ModRevision: revision},
	}
}

func (w *worker) check(ctx context.Context) error {
	switch w.mode {
	case "rmw":
		key := w.key()
		read, err := w.kv.Range(ctx, &pb.RangeRequest{Key: key})
		if err != nil {
			return err
		}
		var revision int64
		if len(read.Kvs) == 1 {
			revision = read.Kvs[0].ModRevision
		}
		written, err := w.kv.Txn(ctx, &pb.TxnRequest{
			Compare: []*pb.Compare{unchanged(key, revision)},
			Success: []*pb.RequestOp{put(key)},
		})
		if err == nil && !written.Succeeded {
			w.conflicts++
		}
		return err
	case "create":
		key := w.key()
		written, err := w.kv.Txn(ctx, &pb.TxnRequest{
			Compare: []*pb.Compare{unchanged(key, 0)},
			Success: []*pb.RequestOp{put(key)},
			Failure: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: key}}}},
		})
		if err == nil && !written.Succeeded {
			w.conflicts++
		}
		return err
	default:
		writes := make([]*pb.RequestOp, w.batch)
		for i := range writes {
			writes[i] = put(w.key())
		}
		_, err := w.kv.Txn(ctx, &pb.TxnRequest{Success: writes})
		return err
	}
}

// run loops until stop is set; what is answered within the measured time counts.
func (w *worker) run(measuring, stop *atomic.Bool) {
	for !stop.Load() {
		begun := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
		err := w.check(ctx)
		cancel()
		if err != nil {
			w.errors++
			w.lastError = err.Error()
			time.Sleep(10 * time.Millisecond)
			continue
		}
		if measuring.Load() && !stop.Load() {
			w.latencies = append(w.latencies, time.Since(begun).Microseconds())
		}
	}
}

func dial(endpoints []string, connections int, config *tls.Config) ([]pb.KVClient, error) {
	clients := make([]pb.KVClient, connections)
	ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
	defer cancel()
	for i := range clients {
		connection, err := grpc.DialContext(ctx, endpoints[i%len(endpoints)], grpc.WithBlock(), grpc.WithReturnConnectionError(),
			grpc.WithTransportCredentials(credentials.NewTLS(config)))
		if err != nil {
			return nil, err
		}
		clients[i] = pb.NewKVClient(connection)
	}
	return clients, nil
}

func trust(ca, certificate, key string) (*tls.Config, error) {
	root, err := os.ReadFile(ca)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(root)
	pair, err := tls.LoadX509KeyPair(certificate, key)
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

func main() {
	endpoints := flag.String("endpoints", "", "host:port, comma separated; connections are dealt to them in turn")
	ca := flag.String("ca", "", "root certificate")
	certificate := flag.String("cert", "", "client certificate")
	key := flag.String("key", "", "client key")
	mode := flag.String("mode", "rmw", "rmw, create or batch")
	batch := flag.Int("batch", 64, "checks a request, in mode batch")
	inFlight := flag.Int("inflight", 1, "requests in flight")
	connections := flag.Int("connections", 1, "connections; requests are dealt to them in turn")
	seconds := flag.Float64("seconds", 3, "measured time")
	warmUp := flag.Float64("warmup", 0.5, "time before it")
	prefix := flag.String("prefix", "", "makes this run's keys new")
	flag.Parse()

	config, err := trust(*ca, *certificate, *key)
	if err != nil {
		fmt.Fprintln(os.Stderr, "etcdload:", err)
		os.Exit(2)
	}
	clients, err := dial(strings.Split(*endpoints, ","), *connections, config)
	if err != nil {
		fmt.Fprintln(os.Stderr, "etcdload: cannot connect:", err)
		os.Exit(3)
	}

	var measuring, stop atomic.Bool
	var running sync.WaitGroup
	workers := make([]*worker, *inFlight)
	for i := range workers {
		workers[i] = &worker{kv: clients[i%len(clients)], mode: *mode, batch: *batch, prefix: *prefix, number: i}
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
	out.Checks = int64(len(latencies))
	if *mode == "batch" {
		out.Checks *= int64(*batch)
	}
	if len(latencies) > 0 {
		sort.Slice(latencies, func(i, j int) bool { return latencies[i] < latencies[j] })
		out.P50 = latencies[len(latencies)*50/100]
		out.P99 = latencies[len(latencies)*99/100]
		out.Max = latencies[len(latencies)-1]
	}
	if err := json.NewEncoder(os.Stdout).Encode(out); err != nil {
		os.Exit(1)
	}
}
