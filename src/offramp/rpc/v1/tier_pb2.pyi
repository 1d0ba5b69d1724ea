from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TierName(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TIER_NAME_UNSPECIFIED: _ClassVar[TierName]
    TIER_NAME_DEVICE: _ClassVar[TierName]
    TIER_NAME_FOG: _ClassVar[TierName]
    TIER_NAME_CLOUD: _ClassVar[TierName]

class Degraded(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DEGRADED_UNSPECIFIED: _ClassVar[Degraded]
    DEGRADED_UNREACHABLE: _ClassVar[Degraded]
    DEGRADED_DEADLINE: _ClassVar[Degraded]
    DEGRADED_OVERLOADED: _ClassVar[Degraded]
    DEGRADED_MISMATCH: _ClassVar[Degraded]
    DEGRADED_POLICY: _ClassVar[Degraded]
    DEGRADED_BROWNOUT: _ClassVar[Degraded]
TIER_NAME_UNSPECIFIED: TierName
TIER_NAME_DEVICE: TierName
TIER_NAME_FOG: TierName
TIER_NAME_CLOUD: TierName
DEGRADED_UNSPECIFIED: Degraded
DEGRADED_UNREACHABLE: Degraded
DEGRADED_DEADLINE: Degraded
DEGRADED_OVERLOADED: Degraded
DEGRADED_MISMATCH: Degraded
DEGRADED_POLICY: Degraded
DEGRADED_BROWNOUT: Degraded

class Request(_message.Message):
    __slots__ = ("names", "samples", "cancels", "padding")
    NAMES_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    CANCELS_FIELD_NUMBER: _ClassVar[int]
    PADDING_FIELD_NUMBER: _ClassVar[int]
    names: _containers.RepeatedCompositeFieldContainer[Name]
    samples: _containers.RepeatedCompositeFieldContainer[Sample]
    cancels: _containers.RepeatedCompositeFieldContainer[SampleId]
    padding: bytes
    def __init__(self, names: _Optional[_Iterable[_Union[Name, _Mapping]]] = ..., samples: _Optional[_Iterable[_Union[Sample, _Mapping]]] = ..., cancels: _Optional[_Iterable[_Union[SampleId, _Mapping]]] = ..., padding: _Optional[bytes] = ...) -> None: ...

class Response(_message.Message):
    __slots__ = ("names", "results", "credits", "message_bytes", "idle_ms")
    NAMES_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    CREDITS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    IDLE_MS_FIELD_NUMBER: _ClassVar[int]
    names: _containers.RepeatedCompositeFieldContainer[Name]
    results: _containers.RepeatedCompositeFieldContainer[Result]
    credits: int
    message_bytes: int
    idle_ms: int
    def __init__(self, names: _Optional[_Iterable[_Union[Name, _Mapping]]] = ..., results: _Optional[_Iterable[_Union[Result, _Mapping]]] = ..., credits: _Optional[int] = ..., message_bytes: _Optional[int] = ..., idle_ms: _Optional[int] = ...) -> None: ...

class Name(_message.Message):
    __slots__ = ("number", "origin", "network", "policy")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    number: int
    origin: Origin
    network: str
    policy: str
    def __init__(self, number: _Optional[int] = ..., origin: _Optional[_Union[Origin, _Mapping]] = ..., network: _Optional[str] = ..., policy: _Optional[str] = ...) -> None: ...

class Origin(_message.Message):
    __slots__ = ("device", "run")
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    device: str
    run: int
    def __init__(self, device: _Optional[str] = ..., run: _Optional[int] = ...) -> None: ...

class SampleId(_message.Message):
    __slots__ = ("origin", "sequence")
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    origin: int
    sequence: int
    def __init__(self, origin: _Optional[int] = ..., sequence: _Optional[int] = ...) -> None: ...

class Sample(_message.Message):
    __slots__ = ("id", "boundary", "network", "policy", "plan_epoch", "time_left_us", "traceparent", "payload", "exit_state", "local", "group", "view", "early")
    ID_FIELD_NUMBER: _ClassVar[int]
    BOUNDARY_FIELD_NUMBER: _ClassVar[int]
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    PLAN_EPOCH_FIELD_NUMBER: _ClassVar[int]
    TIME_LEFT_US_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    EXIT_STATE_FIELD_NUMBER: _ClassVar[int]
    LOCAL_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    EARLY_FIELD_NUMBER: _ClassVar[int]
    id: SampleId
    boundary: int
    network: int
    policy: int
    plan_epoch: int
    time_left_us: int
    traceparent: bytes
    payload: Payload
    exit_state: bytes
    local: bool
    group: int
    view: int
    early: bool
    def __init__(self, id: _Optional[_Union[SampleId, _Mapping]] = ..., boundary: _Optional[int] = ..., network: _Optional[int] = ..., policy: _Optional[int] = ..., plan_epoch: _Optional[int] = ..., time_left_us: _Optional[int] = ..., traceparent: _Optional[bytes] = ..., payload: _Optional[_Union[Payload, _Mapping]] = ..., exit_state: _Optional[bytes] = ..., local: _Optional[bool] = ..., group: _Optional[int] = ..., view: _Optional[int] = ..., early: _Optional[bool] = ...) -> None: ...

class Payload(_message.Message):
    __slots__ = ("tensors", "image")
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    tensors: Tensors
    image: Image
    def __init__(self, tensors: _Optional[_Union[Tensors, _Mapping]] = ..., image: _Optional[_Union[Image, _Mapping]] = ...) -> None: ...

class Tensors(_message.Message):
    __slots__ = ("tensors",)
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    tensors: _containers.RepeatedCompositeFieldContainer[Tensor]
    def __init__(self, tensors: _Optional[_Iterable[_Union[Tensor, _Mapping]]] = ...) -> None: ...

class Tensor(_message.Message):
    __slots__ = ("data", "dtype", "shape")
    DATA_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    dtype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, data: _Optional[bytes] = ..., dtype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ...) -> None: ...

class Image(_message.Message):
    __slots__ = ("data", "media_type")
    DATA_FIELD_NUMBER: _ClassVar[int]
    MEDIA_TYPE_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    media_type: str
    def __init__(self, data: _Optional[bytes] = ..., media_type: _Optional[str] = ...) -> None: ...

class Result(_message.Message):
    __slots__ = ("id", "final", "answer", "status")
    ID_FIELD_NUMBER: _ClassVar[int]
    FINAL_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    id: SampleId
    final: bool
    answer: Answer
    status: Status
    def __init__(self, id: _Optional[_Union[SampleId, _Mapping]] = ..., final: _Optional[bool] = ..., answer: _Optional[_Union[Answer, _Mapping]] = ..., status: _Optional[_Union[Status, _Mapping]] = ...) -> None: ...

class Status(_message.Message):
    __slots__ = ("code", "field", "message")
    CODE_FIELD_NUMBER: _ClassVar[int]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    code: int
    field: str
    message: str
    def __init__(self, code: _Optional[int] = ..., field: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class Answer(_message.Message):
    __slots__ = ("label", "probabilities", "exit", "tier", "degraded", "network", "policy", "plan_epoch", "certified", "trail", "stored")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    EXIT_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    DEGRADED_FIELD_NUMBER: _ClassVar[int]
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    PLAN_EPOCH_FIELD_NUMBER: _ClassVar[int]
    CERTIFIED_FIELD_NUMBER: _ClassVar[int]
    TRAIL_FIELD_NUMBER: _ClassVar[int]
    STORED_FIELD_NUMBER: _ClassVar[int]
    label: int
    probabilities: _containers.RepeatedScalarFieldContainer[float]
    exit: int
    tier: TierName
    degraded: Degraded
    network: int
    policy: int
    plan_epoch: int
    certified: bool
    trail: _containers.RepeatedCompositeFieldContainer[Leg]
    stored: bool
    def __init__(self, label: _Optional[int] = ..., probabilities: _Optional[_Iterable[float]] = ..., exit: _Optional[int] = ..., tier: _Optional[_Union[TierName, str]] = ..., degraded: _Optional[_Union[Degraded, str]] = ..., network: _Optional[int] = ..., policy: _Optional[int] = ..., plan_epoch: _Optional[int] = ..., certified: _Optional[bool] = ..., trail: _Optional[_Iterable[_Union[Leg, _Mapping]]] = ..., stored: _Optional[bool] = ...) -> None: ...

class Leg(_message.Message):
    __slots__ = ("tier", "queued_us", "computed_us", "hop_us", "batch", "bytes_up", "bytes_down")
    TIER_FIELD_NUMBER: _ClassVar[int]
    QUEUED_US_FIELD_NUMBER: _ClassVar[int]
    COMPUTED_US_FIELD_NUMBER: _ClassVar[int]
    HOP_US_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    BYTES_UP_FIELD_NUMBER: _ClassVar[int]
    BYTES_DOWN_FIELD_NUMBER: _ClassVar[int]
    tier: TierName
    queued_us: int
    computed_us: int
    hop_us: int
    batch: int
    bytes_up: float
    bytes_down: float
    def __init__(self, tier: _Optional[_Union[TierName, str]] = ..., queued_us: _Optional[int] = ..., computed_us: _Optional[int] = ..., hop_us: _Optional[int] = ..., batch: _Optional[int] = ..., bytes_up: _Optional[float] = ..., bytes_down: _Optional[float] = ...) -> None: ...

class DescribeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DescribeResponse(_message.Message):
    __slots__ = ("tier", "version", "networks", "plan", "limits")
    TIER_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    NETWORKS_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    tier: TierName
    version: str
    networks: _containers.RepeatedCompositeFieldContainer[HeldNetwork]
    plan: Plan
    limits: Limits
    def __init__(self, tier: _Optional[_Union[TierName, str]] = ..., version: _Optional[str] = ..., networks: _Optional[_Iterable[_Union[HeldNetwork, _Mapping]]] = ..., plan: _Optional[_Union[Plan, _Mapping]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ...) -> None: ...

class HeldNetwork(_message.Message):
    __slots__ = ("name", "digest", "stages", "policies", "classes", "input_shape", "input_dtype")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    POLICIES_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    INPUT_SHAPE_FIELD_NUMBER: _ClassVar[int]
    INPUT_DTYPE_FIELD_NUMBER: _ClassVar[int]
    name: str
    digest: str
    stages: _containers.RepeatedScalarFieldContainer[int]
    policies: _containers.RepeatedCompositeFieldContainer[HeldPolicy]
    classes: _containers.RepeatedScalarFieldContainer[str]
    input_shape: _containers.RepeatedScalarFieldContainer[int]
    input_dtype: str
    def __init__(self, name: _Optional[str] = ..., digest: _Optional[str] = ..., stages: _Optional[_Iterable[int]] = ..., policies: _Optional[_Iterable[_Union[HeldPolicy, _Mapping]]] = ..., classes: _Optional[_Iterable[str]] = ..., input_shape: _Optional[_Iterable[int]] = ..., input_dtype: _Optional[str] = ...) -> None: ...

class HeldPolicy(_message.Message):
    __slots__ = ("name", "id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    id: str
    def __init__(self, name: _Optional[str] = ..., id: _Optional[str] = ...) -> None: ...

class Plan(_message.Message):
    __slots__ = ("last_stage", "epoch")
    LAST_STAGE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    last_stage: int
    epoch: int
    def __init__(self, last_stage: _Optional[int] = ..., epoch: _Optional[int] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("message_bytes", "in_flight", "batch")
    MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    message_bytes: int
    in_flight: int
    batch: int
    def __init__(self, message_bytes: _Optional[int] = ..., in_flight: _Optional[int] = ..., batch: _Optional[int] = ...) -> None: ...

class ResultsRequest(_message.Message):
    __slots__ = ("after", "follow", "waiting", "inputs")
    AFTER_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    after: int
    follow: bool
    waiting: bool
    inputs: bool
    def __init__(self, after: _Optional[int] = ..., follow: _Optional[bool] = ..., waiting: _Optional[bool] = ..., inputs: _Optional[bool] = ...) -> None: ...

class StoredResult(_message.Message):
    __slots__ = ("cursor", "stored_unix_us", "finished_unix_us", "tries", "request", "degraded", "full")
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    STORED_UNIX_US_FIELD_NUMBER: _ClassVar[int]
    FINISHED_UNIX_US_FIELD_NUMBER: _ClassVar[int]
    TRIES_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    DEGRADED_FIELD_NUMBER: _ClassVar[int]
    FULL_FIELD_NUMBER: _ClassVar[int]
    cursor: int
    stored_unix_us: int
    finished_unix_us: int
    tries: int
    request: Request
    degraded: Response
    full: Response
    def __init__(self, cursor: _Optional[int] = ..., stored_unix_us: _Optional[int] = ..., finished_unix_us: _Optional[int] = ..., tries: _Optional[int] = ..., request: _Optional[_Union[Request, _Mapping]] = ..., degraded: _Optional[_Union[Response, _Mapping]] = ..., full: _Optional[_Union[Response, _Mapping]] = ...) -> None: ...

class ReleaseRequest(_message.Message):
    __slots__ = ("upto",)
    UPTO_FIELD_NUMBER: _ClassVar[int]
    upto: int
    def __init__(self, upto: _Optional[int] = ...) -> None: ...

class ReleaseResponse(_message.Message):
    __slots__ = ("released",)
    RELEASED_FIELD_NUMBER: _ClassVar[int]
    released: int
    def __init__(self, released: _Optional[int] = ...) -> None: ...
