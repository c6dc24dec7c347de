"""The feature cache: zarr arrays that are written once, journalled and checked."""
