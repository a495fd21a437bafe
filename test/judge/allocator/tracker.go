package main

import (
	"context"
	"fmt"
	"time"

	resourceapi "k8s.io/api/resource/v1"
	resourcebetaapi "k8s.io/api/resource/v1beta2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	resourcelisters "k8s.io/client-go/listers/resource/v1"
	resourcebetalisters "k8s.io/client-go/listers/resource/v1beta2"
	"k8s.io/client-go/tools/cache"
	"k8s.io/dynamic-resource-allocation/resourceslice/tracker"
)

// tracked are the slices as kube-scheduler's tracker hands them to its allocator: with the taints of the rules.
func tracked(slices []*resourceapi.ResourceSlice, rules []*resourcebetaapi.DeviceTaintRule) ([]*resourceapi.ResourceSlice, error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	sliceInformer := informerOf(&resourceapi.ResourceSlice{}, &resourceapi.ResourceSliceList{Items: values(slices)})
	ruleInformer := informerOf(&resourcebetaapi.DeviceTaintRule{}, &resourcebetaapi.DeviceTaintRuleList{Items: values(rules)})
	classInformer := informerOf(&resourceapi.DeviceClass{}, &resourceapi.DeviceClassList{})
	started, err := tracker.StartTracker(ctx, tracker.Options{
		EnableDeviceTaintRules: true,
		SliceInformer:          sliceSource{sliceInformer},
		TaintInformer:          ruleSource{ruleInformer},
		ClassInformer:          classSource{classInformer},
	})
	if err != nil {
		return nil, fmt.Errorf("start tracker: %w", err)
	}
	defer started.Stop()
	go classInformer.RunWithContext(ctx)
	go sliceInformer.RunWithContext(ctx)
	// The tracker hears of slices and of rules side by side, and what a slice was without rules might be the last that it writes.
	names := map[string]bool{}
	for _, slice := range slices {
		names[slice.Name] = true
	}
	for known := -1; known < len(names); time.Sleep(time.Millisecond) {
		patched, err := started.ListPatchedResourceSlices()
		if err != nil {
			return nil, err
		}
		known = len(patched)
	}
	go ruleInformer.RunWithContext(ctx)
	<-started.HasSyncedChecker().Done()
	return started.ListPatchedResourceSlices()
}

func values[T any](pointers []*T) []T {
	all := make([]T, 0, len(pointers))
	for _, each := range pointers {
		all = append(all, *each)
	}
	return all
}

func informerOf(kind, list runtime.Object) cache.SharedIndexInformer {
	return cache.NewSharedIndexInformer(fixedList{list}, kind, 0, cache.Indexers{})
}

// fixedList is an API server on which nothing ever changes.
type fixedList struct{ list runtime.Object }

func (f fixedList) List(metav1.ListOptions) (runtime.Object, error) { return f.list, nil }
func (fixedList) Watch(metav1.ListOptions) (watch.Interface, error) { return watch.NewFake(), nil }
func (fixedList) IsWatchListSemanticsUnSupported() bool             { return true }

type sliceSource struct{ cache.SharedIndexInformer }

func (s sliceSource) Informer() cache.SharedIndexInformer { return s.SharedIndexInformer }
func (s sliceSource) Lister() resourcelisters.ResourceSliceLister {
	return resourcelisters.NewResourceSliceLister(s.GetIndexer())
}

type ruleSource struct{ cache.SharedIndexInformer }

func (s ruleSource) Informer() cache.SharedIndexInformer { return s.SharedIndexInformer }
func (s ruleSource) Lister() resourcebetalisters.DeviceTaintRuleLister {
	return resourcebetalisters.NewDeviceTaintRuleLister(s.GetIndexer())
}

type classSource struct{ cache.SharedIndexInformer }

func (s classSource) Informer() cache.SharedIndexInformer { return s.SharedIndexInformer }
func (s classSource) Lister() resourcelisters.DeviceClassLister {
	return resourcelisters.NewDeviceClassLister(s.GetIndexer())
}
