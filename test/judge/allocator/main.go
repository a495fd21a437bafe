// The judge asks Kubernetes' own DRA allocator, and its CEL environment, about the cases that a test generated: one
// JSON object per line on stdin, one answer per line on stdout, in the same order. It decides nothing itself.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourceapi "k8s.io/api/resource/v1"
	resourcebetaapi "k8s.io/api/resource/v1beta2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/dynamic-resource-allocation/cel"
	"k8s.io/dynamic-resource-allocation/structured"
)

// features are those that are on by default in the kube-scheduler of the pinned version.
var features = structured.Features{
	AdminAccess:            true,
	ConsumableCapacity:     true,
	DeviceBindingAndStatus: true,
	DeviceTaints:           true,
	PartitionableDevices:   true,
	PrioritizedList:        true,
}

var celFeatures = cel.Features{EnableConsumableCapacity: true}

// question holds either an allocation (node, slices, rules, classes, claims) or a selector (expression, driver, device).
type question struct {
	Node    *corev1.Node                       `json:"node"`
	Slices  []*resourceapi.ResourceSlice       `json:"slices"`
	Rules   []*resourcebetaapi.DeviceTaintRule `json:"rules"`
	Classes []*resourceapi.DeviceClass         `json:"classes"`
	// Claims to allocate, and claims that are allocated already.
	Claims    []*resourceapi.ResourceClaim `json:"claims"`
	Allocated []*resourceapi.ResourceClaim `json:"allocated"`
	// TimeoutMs bounds the search, which is exhaustive.
	TimeoutMs int `json:"timeoutMs"`

	Expression *string             `json:"expression"`
	Driver     string              `json:"driver"`
	Device     *resourceapi.Device `json:"device"`
}

// answer: verdict is allocated, refused, error or timeout for an allocation; true, false, refused (does not compile) or
// error (fails on the device, or costs too much) for a selector.
type answer struct {
	Verdict     string                         `json:"verdict"`
	Message     string                         `json:"message,omitempty"`
	Allocations []resourceapi.AllocationResult `json:"allocations,omitempty"`
	// Slices of an allocation with rules: as the tracker shows them to the allocator.
	Slices []*resourceapi.ResourceSlice `json:"slices,omitempty"`
	Cost   *uint64                      `json:"cost,omitempty"`
}

func main() {
	if err := answerAll(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "judge:", err)
		os.Exit(1)
	}
}

func answerAll(in io.Reader, out io.Writer) error {
	decoder := json.NewDecoder(bufio.NewReaderSize(in, 1<<20))
	decoder.DisallowUnknownFields()
	writer := bufio.NewWriter(out)
	encoder := json.NewEncoder(writer)
	for {
		var asked question
		if err := decoder.Decode(&asked); errors.Is(err, io.EOF) {
			return writer.Flush()
		} else if err != nil {
			return fmt.Errorf("read question: %w", err)
		}
		if err := encoder.Encode(judge(asked)); err != nil {
			return fmt.Errorf("write answer: %w", err)
		}
	}
}

// judge turns a panic of upstream's code into an answer, so that one case cannot hide the others.
func judge(asked question) (result answer) {
	defer func() {
		if reason := recover(); reason != nil {
			result = answer{Verdict: "error", Message: fmt.Sprintf("panic: %v", reason)}
		}
	}()
	if asked.Expression != nil {
		return selects(asked)
	}
	if len(asked.Rules) == 0 {
		return allocate(asked)
	}
	slices, err := tracked(asked.Slices, asked.Rules)
	if err != nil {
		return answer{Verdict: "error", Message: err.Error()}
	}
	asked.Slices = slices
	result = allocate(asked)
	result.Slices = slices
	return result
}

func allocate(asked question) answer {
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(asked.TimeoutMs)*time.Millisecond)
	defer cancel()
	cache := cel.NewCache(100, celFeatures)
	allocator, err := structured.NewAllocator(ctx, features, stateOf(asked.Allocated), classes(asked.Classes), asked.Slices, cache)
	if err != nil {
		return answer{Verdict: "error", Message: err.Error()}
	}
	allocations, err := allocator.Allocate(ctx, asked.Node, asked.Claims)
	switch {
	case ctx.Err() != nil:
		return answer{Verdict: "timeout"}
	case errors.Is(err, structured.ErrFailedAllocationOnNode):
		return answer{Verdict: "refused", Message: err.Error()}
	case err != nil:
		return answer{Verdict: "error", Message: err.Error()}
	case len(allocations) != len(asked.Claims):
		return answer{Verdict: "refused"}
	}
	return answer{Verdict: "allocated", Allocations: allocations}
}

// stateOf gathers what allocated claims hold as kube-scheduler does: admin access holds nothing, a share holds its
// part of a device's capacity, everything else the whole device.
func stateOf(claims []*resourceapi.ResourceClaim) structured.AllocatedState {
	state := structured.AllocatedState{
		AllocatedDevices:         sets.New[structured.DeviceID](),
		AllocatedSharedDeviceIDs: sets.New[structured.SharedDeviceID](),
		AggregatedCapacity:       structured.NewConsumedCapacityCollection(),
	}
	for _, claim := range claims {
		if claim.Status.Allocation == nil {
			continue
		}
		for _, result := range claim.Status.Allocation.Devices.Results {
			if result.AdminAccess != nil && *result.AdminAccess {
				continue
			}
			id := structured.MakeDeviceID(result.Driver, result.Pool, result.Device)
			if result.ShareID == nil {
				state.AllocatedDevices.Insert(id)
				continue
			}
			state.AllocatedSharedDeviceIDs.Insert(structured.MakeSharedDeviceID(id, result.ShareID))
			if result.ConsumedCapacity != nil {
				state.AggregatedCapacity.Insert(structured.NewDeviceConsumedCapacity(id, result.ConsumedCapacity))
			}
		}
	}
	return state
}

func selects(asked question) answer {
	compiled := cel.GetCompiler(celFeatures).CompileCELExpression(*asked.Expression, cel.Options{})
	if compiled.Error != nil {
		return answer{Verdict: "refused", Message: compiled.Error.Error()}
	}
	matches, details, err := compiled.DeviceMatches(context.Background(), cel.Device{
		Driver:                   asked.Driver,
		AllowMultipleAllocations: asked.Device.AllowMultipleAllocations,
		Attributes:               asked.Device.Attributes,
		Capacity:                 asked.Device.Capacity,
	})
	if err != nil {
		return answer{Verdict: "error", Message: err.Error()}
	}
	return answer{Verdict: fmt.Sprint(matches), Cost: details.ActualCost()}
}

type classes []*resourceapi.DeviceClass

func (all classes) List() ([]*resourceapi.DeviceClass, error) { return all, nil }

func (all classes) Get(name string) (*resourceapi.DeviceClass, error) {
	for _, class := range all {
		if class.Name == name {
			return class, nil
		}
	}
	return nil, apierrors.NewNotFound(resourceapi.Resource("deviceclasses"), name)
}
