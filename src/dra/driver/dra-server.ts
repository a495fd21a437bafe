import {
  Server,
  type ServerUnaryCall,
  type ServerWritableStream,
  type sendUnaryData,
  status,
  type UntypedServiceImplementation,
} from "@grpc/grpc-js";
import {
  type ClaimReference,
  type ClaimsRequest,
  type ClaimsResponse,
  type DeviceHealthMessage,
  draServices,
  healthServices,
  type PrepareAnswer,
  serverOptions,
  type UnprepareAnswer,
} from "./grpc.ts";

/** A call of the kubelet; `cancelled` once it no longer waits, of which the event tells. */
export interface CallState {
  readonly cancelled: boolean;
  once(event: "cancelled", listener: () => void): unknown;
}

/** What the DRA socket needs of the rest. Rejections become gRPC errors; one claim's failure is its answer's `error`. */
export interface DraHandlers {
  prepare(claims: readonly ClaimReference[], call: CallState): Promise<Record<string, PrepareAnswer>>;
  unprepare(claims: readonly ClaimReference[], call: CallState): Promise<Record<string, UnprepareAnswer>>;
  /** Health of every device. Calls `send` now and whenever it is to be said again; returns what ends that. */
  watchHealth(send: (devices: DeviceHealthMessage[]) => void): () => void;
}

type Method<T> = (claims: readonly ClaimReference[], call: CallState) => Promise<Record<string, T>>;

/**
 * Serves all versions of the DRA and health services with the same handlers. Health streams never end by themselves:
 * `endStreams` ends them.
 */
export function draServer(handlers: DraHandlers): { server: Server; endStreams(): void } {
  const server = new Server(serverOptions);
  const streams = new Set<() => void>();
  const dra: UntypedServiceImplementation = {
    NodePrepareResources: unary(handlers.prepare),
    NodeUnprepareResources: unary(handlers.unprepare),
  };
  const health: UntypedServiceImplementation = { NodeWatchResources: healthStream(handlers.watchHealth, streams) };
  for (const service of draServices.values()) server.addService(service, dra);
  for (const service of healthServices.values()) server.addService(service, health);
  return {
    server,
    endStreams() {
      for (const end of streams) end();
    },
  };
}

function unary<T>(method: Method<T>) {
  return (call: ServerUnaryCall<ClaimsRequest, ClaimsResponse<T>>, answer: sendUnaryData<ClaimsResponse<T>>): void => {
    method(call.request.claims, call).then(
      (claims) => answer(null, { claims }),
      (error: unknown) => answer({ code: status.INTERNAL, details: error instanceof Error ? error.message : "failed" }),
    );
  };
}

function healthStream(watchHealth: DraHandlers["watchHealth"], streams: Set<() => void>) {
  return (call: ServerWritableStream<object, { devices: DeviceHealthMessage[] }>): void => {
    /** The kubelet does not read: only the newest waits for it. */
    let full = false;
    let waiting: DeviceHealthMessage[] | undefined;
    const send = (devices: DeviceHealthMessage[]): void => {
      if (call.cancelled || call.destroyed) return;
      if (full) waiting = devices;
      else full = !call.write({ devices });
    };
    call.on("drain", () => {
      full = false;
      if (waiting !== undefined) send(waiting);
      waiting = undefined;
    });
    const stopWatching = watchHealth(send);
    const end = (): void => void call.end();
    streams.add(end);
    const stop = (): void => {
      streams.delete(end);
      stopWatching();
    };
    for (const event of ["cancelled", "close", "error", "finish"]) call.on(event, stop);
  };
}
