// A client of kgrank in Go, written from the .proto files alone: it recommends, searches and writes events, over TLS
// and with a token; -plaintext asks a server on this machine that has neither. See build.sh.
//
//	kgrank-client -target localhost:50051 -ca ca.crt -user user-007 -query "coffee beans"
//	kgrank-client -plaintext -user user-007 -query "coffee beans"
//
// The token comes from the environment (KGRANK_TOKEN), so that it stands in no command line.
package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	pb "example.com/kgrank-client/kgrankv1"
)

// Calls go to one after the other of a name's servers (dns:///kgrank-servers:50051). Retried is only what changes nothing
// when it is done twice, an event by its id: the server was not there, or left in the very instant (CANCELLED, where the
// caller did not cancel).
const serviceConfig = `{"loadBalancingConfig": [{"round_robin": {}}], "methodConfig": [{
  "name": [{"service": "kgrank.v1.RankingService"}, {"service": "kgrank.v1.EventService"}],
  "retryPolicy": {"maxAttempts": 4, "initialBackoff": "0.1s", "maxBackoff": "2s", "backoffMultiplier": 2,
                  "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"]}}]}`

// bearer sends the token with every call; gRPC refuses to send it in the clear.
type bearer struct{ token string }

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + b.token}, nil
}

func (b bearer) RequireTransportSecurity() bool { return true }

func main() {
	target := flag.String("target", "localhost:50051", "server, host:port")
	ca := flag.String("ca", "", "PEM certificates that vouch for the server; empty: the machine's own")
	plaintext := flag.Bool("plaintext", false, "no TLS and no token, for a server on this machine")
	user := flag.String("user", "user-007", "whom to recommend for")
	query := flag.String("query", "beans", "what to search for")
	flag.Parse()
	log.SetFlags(0)

	channel, err := dial(*target, *ca, os.Getenv("KGRANK_TOKEN"), *plaintext)
	if err != nil {
		log.Fatal(err)
	}
	defer channel.Close()
	// A deadline on everything.
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := run(ctx, channel, *user, *query); err != nil {
		log.Fatal(explained(err))
	}
}

func dial(target, ca, token string, plaintext bool) (*grpc.ClientConn, error) {
	secure := credentials.NewTLS(nil)
	switch {
	case plaintext && ca != "":
		return nil, errors.New("-plaintext and -ca exclude each other: give one of them")
	case plaintext && !onThisMachine(target):
		return nil, fmt.Errorf("-plaintext is for a server on this machine, as localhost:50051 is, not for %s", target)
	case plaintext:
		secure, token = insecure.NewCredentials(), ""
	case ca != "":
		var err error
		if secure, err = credentials.NewClientTLSFromFile(ca, ""); err != nil {
			return nil, fmt.Errorf("the certificates in %s can't be used: %w", ca, err)
		}
	}
	// A new connection soon after one has broken: gRPC's own second is longer than all attempts of a call.
	soon := backoff.DefaultConfig
	soon.BaseDelay = 100 * time.Millisecond
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(secure),
		grpc.WithDefaultServiceConfig(serviceConfig),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: soon, MinConnectTimeout: 20 * time.Second}),
		// A server whose host is gone says nothing: without this a call waits for it until TCP gives up.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 20 * time.Second, Timeout: 5 * time.Second}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64 << 20)),
	}
	if token != "" {
		options = append(options, grpc.WithPerRPCCredentials(bearer{token}))
	}
	return grpc.NewClient(target, options...)
}

// onThisMachine tells whether a target is a port of this machine, so that nobody on the network can listen in.
func onThisMachine(target string) bool {
	host, _, err := net.SplitHostPort(target)
	return err == nil && (host == "localhost" || net.ParseIP(host).IsLoopback())
}

func run(ctx context.Context, channel *grpc.ClientConn, user, query string) error {
	ranking, events := pb.NewRankingServiceClient(channel), pb.NewEventServiceClient(channel)
	k := int32(3)

	recommended, err := ranking.Recommend(ctx, &pb.RecommendRequest{
		UserId: user, K: &k, IncludeReasons: true, IncludeDetails: true,
	})
	if err != nil {
		return err
	}
	fmt.Printf("recommended for %s (%s, model %s)\n", user, recommended.GetUserState(), recommended.GetModelVersion())
	show(recommended.GetResults())

	found, err := ranking.Search(ctx, &pb.SearchRequest{UserId: user, Query: query, K: &k, IncludeDetails: true})
	if err != nil {
		return err
	}
	fmt.Printf("found for %q\n", query)
	show(found.GetResults())

	if len(recommended.GetResults()) == 0 {
		return nil
	}
	written, err := events.WriteEvent(ctx, &pb.WriteEventRequest{Event: &pb.Event{
		EventId:          newID(),
		UserId:           user,
		ProductId:        recommended.GetResults()[0].GetProductId(),
		Type:             pb.InteractionType_INTERACTION_TYPE_VIEW,
		AttributionToken: recommended.GetAttributionToken(),
	}})
	if err != nil {
		return err
	}
	fmt.Printf("event %s\n", written.GetOutcome().GetStatus())
	return nil
}

func show(results []*pb.Result) {
	for _, result := range results {
		fmt.Printf("  %.2f %s %s\n", result.GetScore(), result.GetProductId(), result.GetTitle())
		for _, reason := range result.GetReasons() {
			fmt.Printf("       %s\n", reason.GetText())
		}
	}
}

// explained returns a failed call's error with what the server says besides: reason, refused fields, when to come back.
func explained(err error) error {
	failed := status.Convert(err)
	text := fmt.Sprintf("%s: %s", failed.Code(), failed.Message())
	for _, detail := range failed.Details() {
		switch told := detail.(type) {
		case *errdetails.ErrorInfo:
			text += fmt.Sprintf("\n  reason %s", told.GetReason())
		case *errdetails.BadRequest:
			for _, field := range told.GetFieldViolations() {
				text += fmt.Sprintf("\n  %s %s", field.GetField(), field.GetDescription())
			}
		case *errdetails.RetryInfo:
			text += fmt.Sprintf("\n  try again in %s", told.GetRetryDelay().AsDuration())
		}
	}
	return fmt.Errorf("%s", text)
}

func newID() string {
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		log.Fatal(err)
	}
	return hex.EncodeToString(id)
}
