"""What is kept of an object, attribute by attribute; everything else is removed. Pure data.

DICOM PS3.15 table E.1-1 (2026c) lists what must go. This is the same table read the other way
round: an attribute that is not listed here does not survive, whatever some later edition or
vendor calls it, so nothing has to be known to be removed. Private attributes, overlays, curves
and file meta information are in no list. PS3.15 E.1.1 allows removing more than the table asks
for; ``tests/client/pacs/test_profile.py`` holds each line below against the table.

The same attribute is treated the same at any depth of sequences.
"""


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


NUMBERS = _set(
    """Rows Columns NumberOfFrames SamplesPerPixel PlanarConfiguration BitsAllocated BitsStored
    HighBit PixelRepresentation SmallestImagePixelValue LargestImagePixelValue PixelPaddingValue
    PixelPaddingRangeLimit RescaleSlope RescaleIntercept WindowCenter WindowWidth
    ImagePositionPatient ImageOrientationPatient PixelSpacing PixelAspectRatio SliceThickness
    SpacingBetweenSlices SliceLocation GantryDetectorTilt ReconstructionDiameter KVP
    InstanceNumber SeriesNumber AcquisitionNumber NumberOfSlices NominalPercentageOfCardiacPhase
    NominalCardiacTriggerDelayTime DimensionIndexValues InStackPositionNumber
    TemporalPositionIndex FrameAcquisitionNumber LossyImageCompressionRatio
    MaximumFractionalValue SegmentNumber ReferencedSegmentNumber ReferencedFrameNumber
    RecommendedDisplayCIELabValue PixelPaddingRangeLimit ROINumber ReferencedROINumber
    ROIDisplayColor ContourNumber NumberOfContourPoints ContourData ContourSlabThickness
    ContourOffsetVector ObservationNumber DimensionIndexPointer FunctionalGroupPointer
    FrameIncrementPointer"""
)
"""Kept where every value is a number of its value representation."""

_KINDS_OF_IMAGE = """ORIGINAL DERIVED PRIMARY SECONDARY AXIAL LOCALIZER SCOUT TOPOGRAM SCANOGRAM HELICAL
    VOLUME REFORMATTED MPR CSA CURVED AVERAGE MIP MINIP PROJECTION VRT SSD MIXED NONE PERFUSION RCBF RCBV
    MTT TTP TMAX SCREENSHOT DOSE_INFO COLOR EFF_ATOMIC_NUM ELECTRON_DENSITY CT_SOM5 CT_SOM7 SPI SPO VNC
    VMI DET_AB DET_A DET_B RESAMPLED ADDITION SUBTRACTION MAXIMUM MINIMUM MEAN OTHER"""

WORDS: dict[str, frozenset[str]] = {
    name: _set(terms)
    for name, terms in {
        "Modality": "CT SEG RTSTRUCT",
        "ImageType": _KINDS_OF_IMAGE,
        "FrameType": _KINDS_OF_IMAGE,
        "PhotometricInterpretation": "MONOCHROME1 MONOCHROME2 RGB YBR_FULL OTHER",
        "RescaleType": "HU HU_MOD US OD Z_EFF ED EDW OTHER",
        "PatientPosition": "HFS HFP HFDR HFDL FFS FFP FFDR FFDL",
        "BurnedInAnnotation": "YES NO",
        "RecognizableVisualFeatures": "YES NO",
        "LossyImageCompression": "00 01",
        "LossyImageCompressionMethod": "ISO_10918_1 ISO_14495_1 ISO_15444_1 ISO_15444_15 ISO_13818_2",
        "VolumetricProperties": "VOLUME SAMPLED DISTORTED MIXED",
        "VolumeBasedCalculationTechnique": "MAX_IP MIN_IP VOLUME_RENDER SURFACE_RENDER MPR CURVED_MPR NONE",
        "PixelPresentation": "COLOR MONOCHROME MIXED TRUE_COLOR",
        "PresentationLUTShape": "IDENTITY INVERSE",
        "ContentQualification": "PRODUCT RESEARCH SERVICE",
        "SegmentationType": "BINARY FRACTIONAL LABELMAP",
        "SegmentationFractionalType": "PROBABILITY OCCUPANCY",
        "SegmentsOverlap": "YES NO UNDEFINED",
        "SegmentAlgorithmType": "AUTOMATIC SEMIAUTOMATIC MANUAL",
        "DimensionOrganizationType": "3D 3D_TEMPORAL TILED_FULL TILED_SPARSE",
        "ContourGeometricType": """POINT OPEN_PLANAR OPEN_NONPLANAR CLOSED_PLANAR CLOSEDPLANAR_XOR""",
        "ROIGenerationAlgorithm": "AUTOMATIC SEMIAUTOMATIC MANUAL",
        "RTROIInterpretedType": "ORGAN EXTERNAL PTV CTV GTV AVOIDANCE MARKER",
        "ConversionType": "DV DI DF WSD SD SI DRW SYN",
    }.items()
}
"""Kept where each value is one of these words; another word becomes OTHER, or nothing."""

UIDS = _set(
    """StudyInstanceUID SeriesInstanceUID SOPInstanceUID FrameOfReferenceUID
    ReferencedSOPInstanceUID ReferencedFrameOfReferenceUID DimensionOrganizationUID"""
)
"""Replaced, the same by the same everywhere, so that labels still find their scan."""

CLASSES = frozenset({"SOPClassUID", "ReferencedSOPClassUID"})
"""UIDs that DICOM itself registers; any other is dropped."""

SEQUENCES = _set(
    """SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence PixelMeasuresSequence
    PlanePositionSequence PlaneOrientationSequence PixelValueTransformationSequence
    FrameVOILUTSequence CTImageFrameTypeSequence FrameContentSequence
    CardiacSynchronizationSequence DimensionOrganizationSequence DimensionIndexSequence
    SegmentSequence SegmentIdentificationSequence DerivationImageSequence SourceImageSequence
    ReferencedSeriesSequence ReferencedInstanceSequence ReferencedFrameOfReferenceSequence
    RTReferencedStudySequence RTReferencedSeriesSequence ContourImageSequence
    StructureSetROISequence ROIContourSequence ContourSequence RTROIObservationsSequence"""
)
"""Kept with what of their items is kept."""

NAMES = frozenset({"ROIName", "SegmentLabel"})
"""Clean Descriptors: kept where the site itself names them, else replaced by their number."""

EMPTY: dict[str, tuple[str, ...]] = {
    "": (
        "PatientName",
        "PatientBirthDate",
        "PatientSex",
        "StudyDate",
        "StudyTime",
        "AccessionNumber",
    ),
    "CT": ("ReferringPhysicianName", "StudyID", "Manufacturer", "PositionReferenceIndicator"),
    "SEG": ("ReferringPhysicianName", "StudyID", "ContentCreatorName", "ContentDescription"),
    "RTSTRUCT": ("ReferringPhysicianName", "StudyID", "StructureSetDate", "StructureSetTime"),
}
"""Type 2 attributes that stay, empty, by modality; those under "" in all."""

DUMMY: dict[str, dict[str, str]] = {
    "SEG": {"ContentLabel": "STILLROOM"},
    "RTSTRUCT": {"StructureSetLabel": "STILLROOM"},
}
"""Type 1 texts that are replaced by one word, by modality."""

PIXELS = frozenset({"PixelData", "FloatPixelData", "DoubleFloatPixelData"})
"""Copied bit by bit."""

BASIC = ("113100", "Basic Application Confidentiality Profile")
CLEAN_DESCRIPTORS = ("113105", "Clean Descriptors Option")
RETAIN_UIDS = ("113110", "Retain UIDs Option")
"""Codes of PS3.16 CID 7050, coding scheme DCM."""
