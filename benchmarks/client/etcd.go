package main

import (
	"context"

	pb "go.etcd.io/etcd/etcdserver/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

// etcd speaks etcd's KV service itself instead of going through etcd's own client library, because it wants exactly
// -connections connections, each to an endpoint that it chose. Modes:
//
//	rmw    one check: read the record (linearizable), then a transaction that writes it if it is still as it was read
//	create one check: a transaction that writes the record if there is none and else reads it. It decides about new
//	       keys with one request; a key that is there would need a second one, so this flatters etcd
//	batch  -batch checks in one transaction of unseen writes; what a client that collects checks could reach
type etcd struct {
	kv   pb.KVClient
	mode string
}

func openEtcd(o options) ([]checker, error) {
	config, err := o.trust()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
	defer cancel()
	clients := make([]pb.KVClient, o.connections)
	for i := range clients {
		connection, err := grpc.DialContext(ctx, o.endpoints[i%len(o.endpoints)], grpc.WithBlock(), grpc.WithReturnConnectionError(),
			grpc.WithTransportCredentials(credentials.NewTLS(config)))
		if err != nil {
			return nil, err
		}
		clients[i] = pb.NewKVClient(connection)
	}
	checkers := make([]checker, o.inFlight)
	for i := range checkers {
		checkers[i] = &etcd{clients[i%len(clients)], o.mode}
	}
	return checkers, nil
}

func put(key string) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(key), Value: record(key)}}}
}

// unchanged is true while the key was last modified at revision; 0 means that there is no such key.
func unchanged(key string, revision int64) *pb.Compare {
	return &pb.Compare{
		Result: pb.Compare_EQUAL, Target: pb.Compare_MOD, Key: []byte(key),
		TargetUnion: &pb.Compare_ModRevision{ModRevision: revision},
	}
}

func (e *etcd) check(ctx context.Context, keys []string) (int, error) {
	request := &pb.TxnRequest{}
	switch key := keys[0]; e.mode {
	case "rmw":
		read, err := e.kv.Range(ctx, &pb.RangeRequest{Key: []byte(key)})
		if err != nil {
			return 0, err
		}
		var revision int64
		if len(read.Kvs) == 1 {
			revision = read.Kvs[0].ModRevision
		}
		request.Compare = []*pb.Compare{unchanged(key, revision)}
		request.Success = []*pb.RequestOp{put(key)}
	case "create":
		request.Compare = []*pb.Compare{unchanged(key, 0)}
		request.Success = []*pb.RequestOp{put(key)}
		request.Failure = []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte(key)}}}}
	default:
		for _, key := range keys {
			request.Success = append(request.Success, put(key))
		}
	}
	written, err := e.kv.Txn(ctx, request)
	if err == nil && !written.Succeeded {
		return 1, nil
	}
	return 0, err
}
